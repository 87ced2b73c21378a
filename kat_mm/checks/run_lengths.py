"""Masks as run lengths, as COCO has them."""

from collections.abc import Sequence

import numpy as np


def decode_counts(text: str) -> np.ndarray:
    """Run lengths of a compressed string, int64; their sum is the number of pixels.

    Each character holds 5 bits behind an offset of 48; its 6th bit says that the number goes on,
    and the highest bit of the last one is the sign. From the fourth number on, the one two places
    before is to be added (the format of pycocotools, which does not look for a string's end).

    Raises:
        ValueError: It is no such string.
    """
    values = np.frombuffer(text.encode('ascii', 'replace'), np.uint8).astype(np.int64) - 48
    if not len(values):
        return values
    ends = np.flatnonzero(~values & 32)
    if (
        not text.isascii()
        or (values < 0).any()
        or (values > 63).any()
        or not len(ends)
        or ends[-1] != len(values) - 1
    ):
        raise ValueError('its counts are no run lengths')
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError('one of its run lengths is beyond 32 bits')
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((values & 31) << (5 * place), starts)
    counts -= np.where(values[ends] & 16, np.int64(1) << (5 * lengths), 0)
    counts[2::2] = np.cumsum(counts[2::2])
    counts[1::2] = np.cumsum(counts[1::2])
    return counts


def bounds(counts: Sequence[int], height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask; right and bottom are behind its last pixels.

    Args:
        counts: Pixels of background and of the object in turn, column by column; at least one is of
            the object.
        height: Pixels of a column.
    """
    ends = np.cumsum(counts)
    first, last = ends[:-1:2], ends[1::2] - 1
    is_there = first <= last
    first, last = first[is_there], last[is_there]
    top, bottom = 0, height
    if (first // height == last // height).all():  # no run goes on in the next column
        top, bottom = (first % height).min(), (last % height).max() + 1
    return first[0] // height, top, last[-1] // height + 1, bottom
