import numpy as np
import pytest
from pycocotools import mask

from kat_mm.checks.run_lengths import decode_counts


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
