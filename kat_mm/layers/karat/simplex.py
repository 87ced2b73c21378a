import torch
from torch import Tensor

from kat_mm.ops.common.dtypes import compute_dtype


def project_simplex(x: Tensor) -> Tensor:
    """Project each row onto the probability simplex: the nearest row of x_i >= 0 with sum 1.

    All entries lose the same amount, and those that fall below 0 become 0 (Maity et al. 2025,
    algorithm 1, "projection on the l1 ball"; Duchi et al. 2008, figure 1, by sorting). The gradient
    is that of the projection: it passes where an entry is left, less its mean over these.

    Args:
        x: (..., N).

    Returns:
        Tensor of x's shape and dtype; sums are in float32 or wider.
    """
    y = x.to(compute_dtype(x.dtype))
    # Nothing changes with what all entries share, but the sums then keep their digits.
    y = y - y.amax(dim=-1, keepdim=True).detach()
    falling = y.sort(dim=-1, descending=True).values
    counts = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=y.dtype)
    # What all entries must lose if the largest 1, 2, ... of them are left.
    excess = (falling.cumsum(dim=-1) - 1) / counts
    left = (falling > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    return (y - excess.gather(-1, left - 1)).clamp(min=0).to(x.dtype)
