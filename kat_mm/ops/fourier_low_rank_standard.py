"""Fourier functions of attention scores in PyTorch's standard operators, for exported programs.

Registered as the operator's decomposition, as that of the group-rational function.
"""

import torch
from torch import Tensor

from .common.dtypes import compute_dtype


def fourier_low_rank(q: Tensor, k: Tensor, coefficients: Tensor, scale: float) -> Tensor:
    """Arguments as of the public function. The scores of all queries and keys exist at a time."""
    dtype = compute_dtype(q.dtype, coefficients.dtype)
    scores = q.to(dtype) @ (k.to(dtype) * scale).mT
    waves = coefficients.to(dtype).mT.unbind(1)  # (heads, N, r) each, of cosines, then of sines
    y = torch.zeros((), dtype=dtype, device=q.device)
    for g, (a, b) in enumerate(
        zip(waves[: len(waves) // 2], waves[len(waves) // 2 :], strict=True)
    ):
        angles = scores * (g + 1)
        y = y + angles.cos() @ a + angles.sin() @ b
    return y.to(q.dtype)
