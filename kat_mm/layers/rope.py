"""Rotary position embeddings of patches (RoPE; Su et al. 2021, RoFormer), by row and column."""

import functools
import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from kat_mm.arguments import check_choice, check_pair
from kat_mm.ops import Rotation, backend, rotate
from kat_mm.ops.common.registration import Operator

from .windows import count_windows, window_partition

COORDINATES = ('centers', 'indices')
ROTATIONS = ('halves', 'pairs')

# Sizes decide in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('turn')


class RotaryEmbedding(nn.Module):
    r"""What turns queries and keys by the position of their patch.

    The d channels of a head are d / 2 planes. The first d / 4 planes are turned by the angles of
    the row, the others by those of the column:

    .. math::
        \theta_k(c) = s\, c\, / \, base^{4k / d}, \quad k = 0 \dots d/4 - 1

    Periods that a checkpoint has (DINOv3's, rounded to bfloat16) take the place of
    :math:`base^{4k/d}`, and are kept in checkpoints from then on.

    Args:
        head_dims: Channels d of a head, a multiple of 4.
        base: Ratio of the longest period and the shortest, about. Default: 100.
        coordinates: 'centers': c of row i is the centre of its patches from -1 to 1,
            :math:`2 (i + 0.5) / H - 1`, and s is 2 pi (DINOv3). 'indices': c is i, and s is 1
            (EVA-02, and RoPE-ViT). Default: 'centers'.
        reference_size: With 'indices', (H, W) of the grid to whose size coordinates are stretched
            (EVA-02: (16, 16)). Default: None, as they are.
        rotation: Channels that make a plane: 'halves', channel k and k + d / 2 (DINOv3), or
            'pairs', neighbours (EVA-02). Default: 'halves'.

    Raises:
        ValueError: An argument has a value that does not fit.
    """

    def __init__(
        self,
        head_dims: int,
        base: float = 100.0,
        coordinates: str = 'centers',
        reference_size: tuple[int, int] | None = None,
        rotation: str = 'halves',
    ):
        super().__init__()
        if head_dims % 4:
            raise ValueError(
                f'RotaryEmbedding: heads of {head_dims} channels cannot be turned by row and '
                'column: that takes a multiple of 4; choose another num_heads'
            )
        check_choice('RotaryEmbedding', 'coordinates', coordinates, COORDINATES)
        check_choice('RotaryEmbedding', 'rotation', rotation, ROTATIONS)
        if reference_size is not None and coordinates != 'indices':
            raise ValueError(
                f'RotaryEmbedding: reference_size={reference_size} belongs to '
                f"coordinates='indices'; coordinates={coordinates!r} has no unit"
            )
        if reference_size is not None:
            check_pair('RotaryEmbedding', 'reference_size', reference_size, 1, 'a grid (H, W)')
        if not isinstance(base, Real) or not base > 1:
            raise ValueError(f'RotaryEmbedding: base={base!r} must be a number greater than 1')
        self.coordinates = coordinates
        self.reference_size = None if reference_size is None else tuple(reference_size)
        self.rotation = rotation
        count = head_dims // 4
        self.formula = tuple(base ** (k / count) for k in range(count))
        # Numbers, not a buffer: half precision is not for them, and tables are kept by them.
        self.periods = self.formula
        self.register_state_dict_post_hook(_keep_other_periods)
        self.register_load_state_dict_pre_hook(_take_periods)

    def forward(
        self, q: Tensor, k: Tensor, grid: tuple[int, int], window: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, d), turned.

        The last tokens are patches; those before them stay as they are. With windows, B is that of
        ``window_partition``, and a patch has the position that it has in the whole image; those
        of the padding go on behind its end.
        """
        settings = self.periods, self.coordinates, self.reference_size, self.rotation
        return turn(q, k, grid, window, *settings)

    def angles(self, x: Tensor, num_tokens: int, grid: tuple[int, int], window: int) -> Rotation:
        """What turns N queries and keys; arguments as of ``forward``, x for dtype and device."""
        settings = self.periods, self.coordinates, self.reference_size, self.rotation
        return find_rotation(x, num_tokens, grid, window, *settings)

    def extra_repr(self) -> str:
        return f'{self.coordinates}, {self.rotation}, reference_size={self.reference_size}'


def turn(
    q: Tensor, k: Tensor, grid: tuple[int, int], window: int, *settings
) -> tuple[Tensor, Tensor]:
    """Arguments as of :class:`RotaryEmbedding` and its ``forward``."""
    rotation = find_rotation(q, q.shape[2], grid, window, *settings)
    return rotate(q, rotation), rotate(k, rotation)


def find_rotation(
    x: Tensor,
    num_tokens: int,
    grid: tuple[int, int],
    window: int,
    periods: tuple[float, ...],
    coordinates: str,
    reference_size: tuple[int, int] | None,
    rotation: str,
) -> Rotation:
    """Tables for queries and keys of ``num_tokens`` each."""
    tokens = window**2 if window else grid[0] * grid[1]
    # Half types are turned in float32, as the original codes do.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    place = tuple(grid), window, num_tokens - tokens
    settings = periods, coordinates, reference_size
    if torch.compiler.is_dynamo_compiling() and backend.runs_kernels(x):
        cos, sin = torch.ops.kat_mm.rotary_tables(
            *place, list(periods), coordinates, reference_size, dtype, x.device
        )
    else:
        # What is being traced or has no memory must not be kept.
        kept = type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
        build = _kept_tables if kept else rotary_tables
        cos, sin = build(*place, *settings, dtype, x.device)
    return Rotation(cos, sin, rotation == 'halves')


def rotary_tables(
    grid: tuple[int, int],
    window: int,
    num_extra_tokens: int,
    periods: Sequence[float],
    coordinates: str,
    reference_size: tuple[int, int] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of all planes, as of :class:`kat_mm.ops.Rotation`.

    1 and 0 of extra tokens. Computed in float64.
    """
    wide = torch.float64
    divisors = torch.tensor(periods, dtype=wide, device=device)
    lengths = [size + (-size % window if window else 0) for size in grid]
    by_axis = []
    for axis, length in enumerate(lengths):
        places = torch.arange(length, dtype=wide, device=device)
        if coordinates == 'centers':
            places = 2 * math.pi * (2 * (places + 0.5) / grid[axis] - 1)
        elif reference_size is not None:
            places = places / grid[axis] * reference_size[axis]
        by_axis.append(places[:, None] / divisors)
    rows = by_axis[0][:, None].expand(-1, lengths[1], -1)
    columns = by_axis[1].expand(lengths[0], -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    if window:
        angles = window_partition(angles[None], tuple(lengths), window)[:, None]
    still = angles.new_zeros(*angles.shape[:-2], num_extra_tokens, angles.shape[-1])
    angles = torch.cat([still, angles], dim=-2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


@functools.lru_cache(maxsize=32)
def _kept_tables(*args) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # for training too
        return rotary_tables(*args)


def _keep_other_periods(module: RotaryEmbedding, state_dict: dict, prefix: str, _) -> None:
    if module.periods != module.formula:
        state_dict[f'{prefix}periods'] = torch.tensor(module.periods, dtype=torch.float64)


def _take_periods(module: RotaryEmbedding, state_dict: dict, prefix: str, *_) -> None:
    loaded = state_dict.get(f'{prefix}periods')
    if loaded is not None and loaded.shape == (len(module.formula),):
        del state_dict[f'{prefix}periods']
        module.periods = tuple(loaded.double().tolist())


# Tables that CUDA graphs read whenever they are replayed.
_captured: list[tuple[Tensor, Tensor]] = []


def _compute_tables(
    grid: list[int],
    window: int,
    num_extra_tokens: int,
    periods: list[float],
    coordinates: str,
    reference_size: list[int] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    reference_size = None if reference_size is None else tuple(reference_size)
    settings = tuple(periods), coordinates, reference_size, dtype, device
    tables = _kept_tables(tuple(grid), window, num_extra_tokens, *settings)
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        _captured.append(tables)
    # A compiled program may write into what it is given.
    return tables[0].clone(), tables[1].clone()


def _empty_tables(
    grid, window, num_extra_tokens, periods, coordinates, reference_size, dtype, device
) -> tuple[Tensor, Tensor]:
    if window:
        rows, columns = count_windows(grid, window)
        shape = rows * columns, 1, num_extra_tokens + window**2, 2 * len(periods)
    else:
        shape = num_extra_tokens + grid[0] * grid[1], 2 * len(periods)
    empty = torch.empty(shape, dtype=dtype, device=device)
    return empty, torch.empty_like(empty)


# For compiled programs: their compiler would compute the angles again, in float64, for each query
# and key.
Operator(
    'rotary_tables',
    '(SymInt[] grid, SymInt window, SymInt num_extra_tokens, float[] periods, str coordinates,'
    ' SymInt[]? reference_size, ScalarType dtype, Device device) -> (Tensor, Tensor)',
    forward=_compute_tables,
    fake=_empty_tables,
)
