"""Which operators have kernels, and for which tensors."""

from torch import Tensor

from kat_mm.installed import is_installed

HAS_TRITON = is_installed('triton')


def runs_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels compute with ``x``; the plain path computes with all tensors."""
    return HAS_TRITON and x.is_cuda
