"""A small size of sample data, and how their masks are read."""

import pytest

from kat_mm.sample_data import SampleSettings

SMALL = SampleSettings(num_train=12, num_val=10, width=96, height=72, seed=0)


def decode(annotation, height, width):
    """Return the mask of an annotation as pycocotools reads it."""
    mask_utils = pytest.importorskip('pycocotools.mask')
    rle = mask_utils.frPyObjects(annotation['segmentation'], height, width)
    if isinstance(rle, list):
        rle = mask_utils.merge(rle)
    return mask_utils.decode(rle).astype(bool), mask_utils.toBbox(rle)
