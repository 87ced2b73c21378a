import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kat_mm.arguments import check_rate


def scale_samples(x: Tensor, scale: Tensor) -> Tensor:
    """``x`` of (B, ..., C) times a factor for each sample, (B,)."""
    return x * scale.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


# A number of dimensions decides in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('scale_samples')


class DropPath(nn.Module):
    """Stochastic depth: leaves out the branch of whole samples (Huang et al. 2016).

    Args:
        rate: Probability with which a sample's branch is left out in training, in [0, 1).
    """

    def __init__(self, rate: float):
        super().__init__()
        check_rate('DropPath', 'rate', rate, below_one=True)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., C) to the same shape."""
        scale = self.draw(x)
        if scale is None:
            return x
        return scale_samples(x, scale)

    def draw(self, x: Tensor) -> Tensor | None:
        """A factor for each sample, (B,): 0, or what keeps the expectation. None if all are 1."""
        if not self.training or not self.rate:
            return None
        return F.dropout(x.new_ones(x.shape[0], dtype=torch.float32), self.rate)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3g}'
