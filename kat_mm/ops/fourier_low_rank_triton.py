"""Triton kernels of the Fourier functions of attention scores, and their launch.

Tiles of scores are made as in flash attention, and used up where they are made: one sine and one
cosine of each score, those of its multiples by the addition theorems, and matrix products with the
coefficients, whose rank is padded to what tensor cores take. Backward makes the tiles again, once
by queries for the gradient of q, and once by keys for those of k and the coefficients.

The gradient of the coefficients is a sum over images and queries: a program walks through the
queries of some images and stores one partial sum; a second reduction adds these in a fixed order.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .common.dtypes import HALF
from .common.launch import TRITON_DTYPES, Plan, cache_plan, launch, uses_ptx
from .common.tiles import cdiv
from .fourier_low_rank_eager import empty_gradients

# Queries and keys of a tile of scores: a program keeps the former and walks through the latter.
_TILE = (64, 32)
# It keeps keys, and the sums of the coefficients too: wider tiles do not fit into registers.
_KEY_GRADIENT_TILE = (16, 64)
# Keys are padded to a multiple of it: of the sides of all tiles.
_KEY_TILES = 64
# Programs of the kernel by keys, where the batch has enough images.
_PROGRAMS = 1024
# Larger products of rank and grid do not fit into registers.
_MAX_SUMS = 256


@triton.jit
def _cos_sin(x, APPROXIMATE: tl.constexpr):
    """cos(x), sin(x)"""
    if APPROXIMATE:
        # The hardware's sine is exact to 2^-20 between -pi and pi. The remainder of x there, with
        # 2 pi in two parts; adding and taking off 1.5 * 2^23 rounds to an integer.
        c, s = tl.inline_asm_elementwise(
            """
            {
            .reg .f32 n, r;
            fma.rn.f32 n, $2, 0f3E22F983, 0f4B400000;
            sub.rn.f32 n, n, 0f4B400000;
            fma.rn.f32 r, n, 0fC0C90FDB, $2;
            fma.rn.f32 r, n, 0f343BBD2E, r;
            cos.approx.ftz.f32 $0, r;
            sin.approx.ftz.f32 $1, r;
            }
            """,
            '=f,=f,f',
            [x],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        c, s = tl.cos(x), tl.sin(x)
    return c, s


@triton.jit
def _tile(
    pointer, rows, num_rows, stride, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, DOT: tl.constexpr
):
    """Rows of a matrix with DIM contiguous columns, as (rows, BLOCK_DIM), zero outside."""
    columns = tl.arange(0, BLOCK_DIM)
    mask = (rows < num_rows)[:, None] & (columns < DIM)[None, :]
    pointers = pointer + rows[:, None] * stride + columns[None, :]
    return tl.load(pointers, mask=mask, other=0.0).to(DOT)


@triton.jit
def _coefficients(pointers, g, G: tl.constexpr, stride, DOT: tl.constexpr):
    """Tiles of a_g and b_g. Those of keys beyond the last are zero, and so add nothing."""
    return tl.load(pointers + g * stride).to(DOT), tl.load(pointers + (G + g) * stride).to(DOT)


@triton.jit
def _fourier_forward_kernel(
    q_ptr,
    k_ptr,
    c_ptr,
    y_ptr,
    scale,
    num_queries,
    num_keys,
    padded_keys,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    G: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y_ir = sum_jg a_grj cos(g s_ij) + b_grj sin(g s_ij), s = scale q k^T, for a tile of i."""
    tiles = tl.cdiv(num_queries, BLOCK_Q)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // HEADS, image % HEADS
    queries = (tl.program_id(0) % tiles) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    rank = tl.arange(0, BLOCK_R)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    c_ptr += head * 2 * G * BLOCK_R * padded_keys
    q = _tile(q_ptr, queries, num_queries, q_token, D, BLOCK_D, DOT)
    y = tl.zeros([BLOCK_Q, BLOCK_R], tl.float32)
    for first in range(0, num_keys, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        k = _tile(k_ptr, keys, num_keys, k_token, D, BLOCK_D, DOT)
        scores = tl.dot(q, tl.trans(k), input_precision='ieee') * tl.cast(scale, tl.float32)
        cos, sin = _cos_sin(scores, APPROXIMATE)
        c_ptrs = c_ptr + rank[None, :] * padded_keys + keys[:, None]
        cos_g, sin_g = cos, sin
        for g in tl.static_range(G):
            if g > 0:
                cos_g, sin_g = cos_g * cos - sin_g * sin, sin_g * cos + cos_g * sin
            a, b = _coefficients(c_ptrs, g, G, BLOCK_R * padded_keys, DOT)
            y = tl.dot(cos_g.to(DOT), a, y, input_precision='ieee')
            y = tl.dot(sin_g.to(DOT), b, y, input_precision='ieee')
    y_ptrs = y_ptr + (image * num_queries + queries[:, None]) * RANK + rank[None, :]
    tl.store(y_ptrs, y, mask=(queries < num_queries)[:, None] & (rank < RANK)[None, :])


@triton.jit
def _fourier_query_gradient_kernel(
    q_ptr,
    k_ptr,
    c_ptr,
    grad_ptr,
    grad_q_ptr,
    scale,
    num_queries,
    num_keys,
    padded_keys,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    G: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """grad_q_i = scale sum_j ds_ij k_j for a tile of queries i, where ds_ij =
    sum_g g (cos(g s_ij) sum_r dy_ir b_grj - sin(g s_ij) sum_r dy_ir a_grj)."""
    tiles = tl.cdiv(num_queries, BLOCK_Q)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // HEADS, image % HEADS
    queries = (tl.program_id(0) % tiles) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    rank = tl.arange(0, BLOCK_R)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    c_ptr += head * 2 * G * BLOCK_R * padded_keys
    q = _tile(q_ptr, queries, num_queries, q_token, D, BLOCK_D, DOT)
    grad_ptr += image * num_queries * RANK
    grad = _tile(grad_ptr, queries, num_queries, RANK, RANK, BLOCK_R, DOT)
    grad_q = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for first in range(0, num_keys, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        k = _tile(k_ptr, keys, num_keys, k_token, D, BLOCK_D, DOT)
        scores = tl.dot(q, tl.trans(k), input_precision='ieee') * tl.cast(scale, tl.float32)
        cos, sin = _cos_sin(scores, APPROXIMATE)
        c_ptrs = c_ptr + rank[:, None] * padded_keys + keys[None, :]
        slope = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
        cos_g, sin_g = cos, sin
        for g in tl.static_range(G):
            if g > 0:
                cos_g, sin_g = cos_g * cos - sin_g * sin, sin_g * cos + cos_g * sin
            a, b = _coefficients(c_ptrs, g, G, BLOCK_R * padded_keys, DOT)
            grad_cos = tl.dot(grad, a, input_precision='ieee')
            grad_sin = tl.dot(grad, b, input_precision='ieee')
            slope += (g + 1) * (cos_g * grad_sin - sin_g * grad_cos)
        grad_q = tl.dot(slope.to(DOT), k, grad_q, input_precision='ieee')
    columns = tl.arange(0, BLOCK_D)
    grad_q_ptr += batch * num_queries * HEADS * D + head * D
    tl.store(
        grad_q_ptr + queries[:, None] * (HEADS * D) + columns[None, :],
        grad_q * tl.cast(scale, tl.float32),
        mask=(queries < num_queries)[:, None] & (columns < D)[None, :],
    )


@triton.jit
def _fourier_key_gradient_kernel(
    q_ptr,
    k_ptr,
    c_ptr,
    grad_ptr,
    grad_k_ptr,
    partial_ptr,
    scale,
    num_images,
    num_queries,
    num_keys,
    padded_keys,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    G: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """For a tile of keys j: grad_k_j = scale sum_i ds_ij q_i, and for the reduction, over queries
    of some images, da_grj = sum_i dy_ir cos(g s_ij) and db_grj = sum_i dy_ir sin(g s_ij)."""
    # Everything is transposed, keys first: sums run along the rows of what registers hold.
    tiles = tl.cdiv(num_keys, BLOCK_K)
    keys = (tl.program_id(0) % tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    head = (tl.program_id(0) // tiles) % HEADS
    chunk = (tl.program_id(0) // (tiles * HEADS)).to(tl.int64)
    rank = tl.arange(0, BLOCK_R)
    columns = tl.arange(0, BLOCK_D)
    coefficients = rank[None, :] * padded_keys + keys[:, None]
    c_ptrs = c_ptr + head * 2 * G * BLOCK_R * padded_keys + coefficients
    sums = ()
    for _ in tl.static_range(2 * G):
        sums = sums + (tl.zeros([BLOCK_K, BLOCK_R], tl.float32),)
    last = tl.minimum((chunk + 1) * IMAGES, num_images)
    for batch in range(chunk * IMAGES, last):
        k = _tile(k_ptr + batch * k_batch + head * k_head, keys, num_keys, k_token, D, BLOCK_D, DOT)
        grad_k = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
        for first in range(0, num_queries, BLOCK_Q):
            queries = first + tl.arange(0, BLOCK_Q)
            q = _tile(
                q_ptr + batch * q_batch + head * q_head,
                queries,
                num_queries,
                q_token,
                D,
                BLOCK_D,
                DOT,
            )
            grad = _tile(
                grad_ptr + (batch * HEADS + head) * num_queries * RANK,
                queries,
                num_queries,
                RANK,
                RANK,
                BLOCK_R,
                DOT,
            )
            scores = tl.dot(k, tl.trans(q), input_precision='ieee') * tl.cast(scale, tl.float32)
            cos, sin = _cos_sin(scores, APPROXIMATE)
            slope = tl.zeros([BLOCK_K, BLOCK_Q], tl.float32)
            cos_g, sin_g = cos, sin
            cosines, sines = (), ()
            for g in tl.static_range(G):
                if g > 0:
                    cos_g, sin_g = cos_g * cos - sin_g * sin, sin_g * cos + cos_g * sin
                a, b = _coefficients(c_ptrs, g, G, BLOCK_R * padded_keys, DOT)
                grad_cos = tl.dot(a, tl.trans(grad), input_precision='ieee')
                grad_sin = tl.dot(b, tl.trans(grad), input_precision='ieee')
                slope += (g + 1) * (cos_g * grad_sin - sin_g * grad_cos)
                # Queries beyond the last have no gradient, so that these add nothing.
                low_cos, low_sin = cos_g.to(DOT), sin_g.to(DOT)
                cosines = cosines + (tl.dot(low_cos, grad, sums[g], input_precision='ieee'),)
                sines = sines + (tl.dot(low_sin, grad, sums[G + g], input_precision='ieee'),)
            sums = cosines + sines
            grad_k = tl.dot(slope.to(DOT), q, grad_k, input_precision='ieee')
        tl.store(
            grad_k_ptr
            + batch * num_keys * HEADS * D
            + head * D
            + keys[:, None] * (HEADS * D)
            + columns[None, :],
            grad_k * tl.cast(scale, tl.float32),
            mask=(keys < num_keys)[:, None] & (columns < D)[None, :],
        )
    partial_ptr += (chunk * HEADS + head) * 2 * G * BLOCK_R * padded_keys
    for g in tl.static_range(2 * G):
        tl.store(partial_ptr + g * BLOCK_R * padded_keys + coefficients, sums[g])


def supports(q: Tensor, coefficients: Tensor) -> bool:
    """Whether the kernels are the better path: tensor cores round float32 and float64."""
    _, waves, rank, _ = coefficients.shape
    return (
        q.dtype in HALF
        and q.numel() > 0
        and coefficients.numel() > 0
        and q.shape[-1] <= 128
        and waves * _padded(rank) <= _MAX_SUMS
    )


def _padded(size: int) -> int:
    """Tensor cores take sides of 16 and more."""
    return max(16, triton.next_power_of_2(size))


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _pack(q: Tensor, coefficients: Tensor) -> Tensor:
    """(heads, 2 G, r, N) in q's dtype, with zeros up to the padded rank and to whole tiles of keys.

    Rows then start on 16 bytes, and tiles need no mask.
    """
    rank, keys = coefficients.shape[2:]
    return F.pad(coefficients.to(q.dtype), (0, -keys % _KEY_TILES, 0, _padded(rank) - rank))


def _sizes(q: Tensor, k: Tensor, packed: Tensor) -> tuple[int, ...]:
    """Sizes and strides that all kernels take."""
    return (q.shape[2], k.shape[2], packed.shape[3], *q.stride()[:3], *k.stride()[:3])


@cache_plan
def _plan(
    q_shape: tuple[int, int],
    rank: int,
    waves: int,
    dtype: torch.dtype,
    is_cuda: bool,
    tile: tuple[int, int],
    **others: int,
) -> Plan:
    """``q_shape`` is (heads, d), ``tile`` (queries, keys), ``dtype`` all tensors' but for sums."""
    heads, dim = q_shape
    return Plan(
        HEADS=heads,
        D=dim,
        BLOCK_D=_padded(dim),
        RANK=rank,
        BLOCK_R=_padded(rank),
        G=waves // 2,
        APPROXIMATE=uses_ptx(is_cuda),
        # The interpreter multiplies bfloat16 as the integers that it keeps it in.
        DOT=TRITON_DTYPES[dtype if is_cuda else torch.float32],
        BLOCK_Q=tile[0],
        BLOCK_K=tile[1],
        num_warps=4,
        **others,
    )


def _plan_for(q: Tensor, coefficients: Tensor, tile: tuple[int, int], **others: int) -> Plan:
    _, waves, rank, _ = coefficients.shape
    return _plan(q.shape[1::2], rank, waves, q.dtype, q.is_cuda, tile, **others)


def forward(q: Tensor, k: Tensor, coefficients: Tensor, scale: float) -> Tensor:
    """See ``fourier_low_rank``."""
    q, k = _unit_stride(q), _unit_stride(k)
    y = q.new_empty(*q.shape[:3], coefficients.shape[2])
    packed = _pack(q, coefficients)
    launch(
        _fourier_forward_kernel,
        q.shape[0] * q.shape[1] * cdiv(q.shape[2], _TILE[0]),
        _plan_for(q, coefficients, _TILE),
        (q, k, packed, y),
        (scale, *_sizes(q, k, packed)),
    )
    return y


def backward(
    grad: Tensor, q: Tensor, k: Tensor, coefficients: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``q``, ``k`` and ``coefficients``; see ``fourier_low_rank``."""
    q, k, grad = _unit_stride(q), _unit_stride(k), grad.to(q.dtype).contiguous()
    packed = _pack(q, coefficients)
    grad_q, grad_k, grad_coefficients = empty_gradients(q, k, coefficients)
    sizes = _sizes(q, k, packed)
    batch, heads, queries, _ = q.shape
    launch(
        _fourier_query_gradient_kernel,
        batch * heads * cdiv(queries, _TILE[0]),
        _plan_for(q, coefficients, _TILE),
        (q, k, packed, grad, grad_q),
        (scale, *sizes),
    )
    tiles = heads * cdiv(k.shape[2], _KEY_GRADIENT_TILE[1])
    images = cdiv(batch * tiles, max(_PROGRAMS, tiles))
    chunks = cdiv(batch, images)
    partial = packed.new_empty(chunks, *packed.shape, dtype=torch.float32)
    launch(
        _fourier_key_gradient_kernel,
        chunks * tiles,
        _plan_for(q, coefficients, _KEY_GRADIENT_TILE, IMAGES=images),
        (q, k, packed, grad, grad_k, partial),
        (scale, batch, *sizes),
    )
    rank, keys = coefficients.shape[2:]
    grad_coefficients.copy_(partial.sum(dim=0)[:, :, :rank, :keys])
    return grad_q, grad_k, grad_coefficients
