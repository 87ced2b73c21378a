"""How kernels cut tensors: tiles of (rows, slots, lanes)."""

import math
from typing import NamedTuple

from torch import Tensor

NUM_WARPS = 4


def cdiv(numerator: int, denominator: int) -> int:
    """Quotient, rounded up (Triton's own takes longer than a launch)."""
    return -(-numerator // denominator)


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor without gaps; kernels know no strides but those they are given."""
    return None if tensor is None else tensor.contiguous()


def slot_width(channels: int, *groups: int, most: int) -> int:
    """Largest power of two, at most ``most``, that divides the channels of every group."""
    width = math.gcd(*(channels // count for count in groups), most)
    return width & -width


class Tile(NamedTuple):
    """Shape of a tile; a thread holds one slot, 16 bytes of neighbouring elements."""

    rows: int
    slots: int
    vector: int

    @classmethod
    def of(cls, num_slots: int, vector: int, itemsize: int) -> 'Tile':
        """A tile over ``num_slots`` slots of ``vector`` neighbouring elements."""
        # A tile that divides the row wastes no threads; a narrow one wastes bandwidth.
        divisor = num_slots & -num_slots
        slots = min(divisor if divisor >= 8 else 1 << (num_slots - 1).bit_length(), 32)
        return cls(max(1, 32 * NUM_WARPS * 16 // itemsize // (slots * vector)), slots, vector)

    def constants(self) -> dict:
        """Arguments of a kernel."""
        return dict(ROWS=self.rows, SLOTS=self.slots, VECTOR=self.vector, num_warps=NUM_WARPS)
