"""Batches that mmdet's preprocessor takes, and their channels."""

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from waits import Indices

from kat_mm.dense.detection_masks import FastDetDataPreprocessor
from kat_mm.dense.images import sent

NORMALIZE = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], pad_size_divisor=4)


def images(channels=3, sizes=((6, 8), (7, 5))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (channels, *size), generator=generator) for size in sizes]


@pytest.mark.parametrize('options', [dict(bgr_to_rgb=True), dict(rgb_to_bgr=True), {}])
@pytest.mark.parametrize('inputs', [images(), torch.stack(images(sizes=((6, 8), (6, 8))))])
def test_images_are_those_of_mmdet_without_lists_of_indices(options, inputs):
    data = dict(inputs=inputs, data_samples=None)
    with Indices() as slow:
        want = DetDataPreprocessor(**NORMALIZE, **options)(data)
    preprocessor = FastDetDataPreprocessor(**NORMALIZE, **options)
    for _ in range(2):  # the first leaves the preprocessor as it was
        with Indices() as fast:
            got = preprocessor(data)
        assert torch.equal(got['inputs'], want['inputs'])
    assert fast.found == 0 and (slow.found > 0) == bool(options)
    assert data['inputs'] is inputs


def test_what_has_other_channels_is_left_to_mmdet():
    preprocessor = FastDetDataPreprocessor(mean=[1.0], std=[2.0], bgr_to_rgb=True)
    rest, data = sent(preprocessor, dict(inputs=images(1)))
    assert rest._channel_conversion
    assert all(map(torch.equal, data['inputs'], images(1)))
    with pytest.raises(AssertionError, match='should be a NCHW tensor'):
        preprocessor(dict(inputs=images()[0], data_samples=None))


def test_a_preprocessor_that_others_use_meanwhile_stays_as_it_is():
    preprocessor = FastDetDataPreprocessor(**NORMALIZE, bgr_to_rgb=True)
    before = dict(vars(preprocessor))
    rest, _ = sent(preprocessor, dict(inputs=images()))
    assert vars(preprocessor) == before and preprocessor._channel_conversion
    assert not rest._channel_conversion and rest.mean is preprocessor.mean
