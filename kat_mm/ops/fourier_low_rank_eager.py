"""Fourier functions of attention scores in plain PyTorch: any device; in float64 the truth.

Scores, cosines and sines exist for one chunk of images and queries at a time, and are computed
again in the backward pass, so that memory stays bounded whatever the number of tokens::

    y_ir   = sum_j sum_g a_grj cos(g s_ij) + b_grj sin(g s_ij),     s = scale q k^T
    ds_ij  = sum_g g (cos(g s_ij) sum_r dy_ir b_grj - sin(g s_ij) sum_r dy_ir a_grj)
    da_grj = sum_i dy_ir cos(g s_ij),  db_grj = sum_i dy_ir sin(g s_ij)
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .common.dtypes import compute_dtype

# Scores that exist at a time: 64 MiB in float32.
_CHUNK = 2**24


def forward(q: Tensor, k: Tensor, coefficients: Tensor, scale: float) -> Tensor:
    """(B, heads, M, r) for q (B, heads, M, d), k (B, heads, N, d), (heads, 2 G, r, N)."""
    dtype = compute_dtype(q.dtype, coefficients.dtype)
    a, b = coefficients.to(dtype).chunk(2, dim=1)
    y = q.new_empty(*q.shape[:3], coefficients.shape[2])
    for images, queries in _chunks(q, k):
        scores = _scores(q[images, :, queries], k[images], scale, dtype)
        part = y.new_zeros(y[images, :, queries].shape, dtype=dtype)
        for g in range(a.shape[1]):
            part += ((g + 1) * scores).cos() @ a[:, g].mT
            part += ((g + 1) * scores).sin() @ b[:, g].mT
        y[images, :, queries] = part
    return y


def backward(
    grad: Tensor, q: Tensor, k: Tensor, coefficients: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``q``, ``k`` and ``coefficients``, from the inputs alone."""
    dtype = compute_dtype(q.dtype, coefficients.dtype)
    a, b = coefficients.to(dtype).chunk(2, dim=1)
    grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
    grad_q, grad_k, _ = empty_gradients(q, k, coefficients)
    # Chunks of queries add to one sum, which must not be rounded each time.
    sum_k = torch.zeros_like(k, dtype=dtype)
    for images, queries in _chunks(q, k):
        part = grad[images, :, queries].to(dtype)
        scores = _scores(q[images, :, queries], k[images], scale, dtype)
        slope = torch.zeros_like(scores)
        for g in range(a.shape[1]):
            cos, sin = ((g + 1) * scores).cos(), ((g + 1) * scores).sin()
            grad_a[:, g] += (part.mT @ cos).sum(dim=0)
            grad_b[:, g] += (part.mT @ sin).sum(dim=0)
            slope += (g + 1) * (cos * (part @ b[:, g]) - sin * (part @ a[:, g]))
        slope *= scale
        grad_q[images, :, queries] = (slope @ k[images].to(dtype)).to(q.dtype)
        sum_k[images] += slope.mT @ q[images, :, queries].to(dtype)
    grad_k.copy_(sum_k)
    return grad_q, grad_k, torch.cat([grad_a, grad_b], dim=1).to(coefficients.dtype)


def empty_gradients(q: Tensor, k: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the gradients; those of q and k as (B, tokens, heads, d), as they came."""
    grad_q, grad_k = (
        t.new_empty(t.shape[0], t.shape[2], t.shape[1], t.shape[3]).transpose(1, 2) for t in (q, k)
    )
    return grad_q, grad_k, coefficients.new_empty(coefficients.shape)


def _scores(q: Tensor, k: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (q.to(dtype) @ k.to(dtype).mT).mul_(scale)


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Runs of images, or of queries of one image, with at most ``_CHUNK`` scores."""
    batch, heads, tokens, _ = q.shape
    row = max(1, heads * k.shape[2])
    images = max(1, _CHUNK // (row * max(1, tokens)))
    queries = max(1, _CHUNK // row)
    for first in range(0, batch, images):
        for query in range(0, tokens, queries):
            yield slice(first, first + images), slice(query, query + queries)
