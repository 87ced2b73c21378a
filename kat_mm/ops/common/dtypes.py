"""Which dtypes operators take, and in which they compute."""

import functools

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FLOATING = (*HALF, torch.float32, torch.float64)


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """float32 for half types, else the widest dtype that came in."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def rational_dtype(
    dtypes: tuple[torch.dtype, ...], a_shape: torch.Size, b_shape: torch.Size
) -> torch.dtype:
    """Of a rational function's arithmetic, for x and coefficients of these dtypes and shapes."""
    # 65504, float16's largest number, to the power of 9 is moderate with the coefficients of fits;
    # more powers leave the range of float32.
    high = max(a_shape[1] - 1, b_shape[1]) > 9
    return torch.float64 if high else compute_dtype(*dtypes)


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return x.to(compute_dtype(x.dtype))
