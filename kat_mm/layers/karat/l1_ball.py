import torch
from torch import Tensor

from kat_mm.ops.group_rational_eager import compute_dtype


def project_l1_ball(x: Tensor) -> Tensor:
    """Project each row onto the l1 unit ball: the nearest row with sum |x_i| <= 1, exactly.

    Rows inside stay; others lose the same amount from every magnitude, down to 0 (Duchi et al.
    2008, figure 1, by sorting). The gradient is that of the projection: it passes where an entry is
    left, less its mean in the direction of the signs.

    Args:
        x: (..., N).

    Returns:
        Tensor of x's shape and dtype; sums are in float32 or wider.
    """
    magnitude = x.abs().to(compute_dtype(x.dtype))
    falling = magnitude.sort(dim=-1, descending=True).values
    counts = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=magnitude.dtype)
    # What all entries must lose if the largest 1, 2, ... of them are left.
    excess = (falling.cumsum(dim=-1) - 1) / counts
    left = (falling > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, left - 1).clamp(min=0)
    return (x.sign() * (magnitude - threshold).clamp(min=0)).to(x.dtype)
