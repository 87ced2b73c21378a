import numpy as np
import pytest
from pycocotools import mask

from kat_mm.checks.run_lengths import bounds, decode_counts


@pytest.mark.parametrize('density', [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize('shape', [(1, 1), (7, 5), (200, 300)])
def test_strings_of_pycocotools_give_the_runs_of_their_masks(shape, density):
    pixels = np.random.default_rng(0).random(shape) < density
    pixels = np.asfortranarray(pixels.astype(np.uint8))
    counts = decode_counts(mask.encode(pixels)['counts'].decode())
    runs = np.repeat(np.arange(len(counts)) % 2, counts)
    assert runs.tolist() == pixels.ravel('F').tolist()


def test_an_empty_string_has_no_runs():
    assert decode_counts('').tolist() == []


@pytest.mark.parametrize('text', [' ', 'abc\u00e4', 'P', 'o', '\u20ac'])
def test_other_strings_are_refused(text):
    with pytest.raises(ValueError, match='no run lengths'):
        decode_counts(text)


@pytest.mark.parametrize('density', [0.005, 0.5, 1.0])
@pytest.mark.parametrize('part', [(1, 1), (7, 1), (1, 5), (4, 3)])
def test_bounds_are_those_of_the_pixels(part, density):
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = np.zeros((7, 5), np.uint8, order='F')
        top, left = rng.integers(0, 8 - part[0]), rng.integers(0, 6 - part[1])
        pixels[top : top + part[0], left : left + part[1]] = rng.random(part) < density
        if not pixels.any():
            pixels[top, left] = 1
        counts = decode_counts(mask.encode(pixels)['counts'].decode())
        ys, xs = np.nonzero(pixels)
        got = bounds(counts.tolist(), 7)
        first, last = (xs.min(), ys.min()), (xs.max() + 1, ys.max() + 1)
        if (got[1], got[3]) == (0, 7):  # a run may go on in the next column
            assert (got[0], got[2]) == (first[0], last[0])
        else:
            assert got == (*first, *last)
