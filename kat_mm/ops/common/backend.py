"""Which operators have kernels, and for which tensors. The one place that asks for Triton."""

import importlib
from typing import Any

from torch import Tensor

from kat_mm.installed import is_installed

HAS_TRITON = is_installed('triton')


def runs_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels compute with ``x``; the plain path computes with all tensors."""
    return HAS_TRITON and x.is_cuda


def import_kernels(operator: str) -> Any:
    """The module ``OPERATOR_triton`` of an operator's module, or None where there is no Triton.

    It is asked for nothing where :func:`runs_kernels` says no.
    """
    return importlib.import_module(operator + '_triton') if HAS_TRITON else None
