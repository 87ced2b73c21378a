import numpy as np
import pytest
from small_samples import decode

from kat_mm.sample_data.layouts import coco_annotation
from kat_mm.sample_data.masks import polygons_of, rle_of
from kat_mm.sample_data.scenes import draw_scene


@pytest.mark.parametrize('seed', range(4))
def test_pycocotools_gets_the_drawn_masks_back(seed):
    scene = draw_scene(np.random.default_rng(seed), 160, 120, 'street')
    assert scene.instances()
    for kind, mask in scene.instances():
        annotation = coco_annotation(kind, mask)
        decoded, box = decode(annotation, 120, 160)
        assert (decoded & mask).sum() / (decoded | mask).sum() > 0.9
        assert annotation['area'] == decoded.sum()
        assert annotation['bbox'] == box.tolist()
        if kind.iscrowd:
            np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize('seed', range(3))
def test_polygons_and_rle_of_scattered_pixels_are_exact(seed):
    mask = np.random.default_rng(seed).random((23, 31)) < 0.3
    polygons, filled = polygons_of(mask)
    assert (filled & mask).sum() == mask.sum()
    np.testing.assert_array_equal(decode({'segmentation': polygons}, 23, 31)[0], filled)
    np.testing.assert_array_equal(decode({'segmentation': rle_of(mask)}, 23, 31)[0], mask)


@pytest.mark.parametrize('value', [False, True])
def test_rle_of_a_uniform_mask(value):
    mask = np.full((4, 5), value)
    np.testing.assert_array_equal(decode({'segmentation': rle_of(mask)}, 4, 5)[0], mask)
