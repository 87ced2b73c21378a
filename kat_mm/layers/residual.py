from typing import NamedTuple

from torch import Tensor, nn

from kat_mm.ops import add_branch, add_layer_norm, end_branch


class Residual(NamedTuple):
    """The residual stream between two halves of a block, its last addition still to be done.

    The next normalisation does it, in one pass over memory.
    """

    x: Tensor
    """(B, ..., C)"""
    branch: Tensor | None = None
    """To be added, of the same shape."""
    scale: Tensor | None = None
    """Factor of each sample's branch, (B,): stochastic depth."""
    branch_bias: Tensor | None = None
    """Added to the branch, (C,): the bias of the linear map behind which the branch ends."""

    def close(self) -> 'Residual':
        """The same stream without a parameter of the module that it comes from."""
        if self.branch_bias is None:
            return self
        return Residual(self.x, end_branch(self.x, self.branch, self.branch_bias), self.scale)

    def add(self) -> 'Residual':
        """The same stream with nothing left to be added."""
        return Residual(add_branch(self.x, self.branch, self.scale, self.branch_bias))


class AddLayerNorm(nn.LayerNorm):
    """Layer normalisation of a residual stream, with the addition before it.

    Args:
        normalized_shape: Channels C.
        eps: Added to the variance. Default: 1e-6.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__(normalized_shape, eps=eps)

    def forward(self, stream: Residual) -> tuple[Tensor, Tensor]:
        """The stream with its branch added, and the normalisation of that."""
        return add_layer_norm(
            stream.x,
            self.weight,
            self.bias,
            self.eps,
            stream.branch,
            stream.scale,
            branch_bias=stream.branch_bias,
        )


def is_plain(module: nn.Module, kind: type) -> bool:
    """Whether ``module`` may be computed within its neighbour, without being called.

    Not where somebody listens to it, nor where it was replaced (adapters, quantisation, sharding)
    or parametrised, which makes it another class, nor where it was compiled by itself.
    """
    return type(module) is kind and not (
        'forward' in vars(module)  # wrapped by whoever moves parameters about
        or '_compiled_call_impl' in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
