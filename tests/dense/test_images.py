"""Batches that mmdet's preprocessor takes, and their channels."""

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from torch.utils._python_dispatch import TorchDispatchMode

from kat_mm.dense.detection_masks import FastDetDataPreprocessor
from kat_mm.dense.images import sent

NORMALIZE = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], pad_size_divisor=4)


def images(channels=3, sizes=((6, 8), (7, 5))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (channels, *size), generator=generator) for size in sizes]


class Indices(TorchDispatchMode):
    """Counts images indexed by a list, which is copied to the GPU: the host waits for it."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        # Not those of a table of sizes, which stays on the host.
        self.found += operator.overloadpacket is torch.ops.aten.index and args[0].dim() > 2
        return operator(*args, **(kwargs or {}))


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
    with sent(preprocessor, dict(inputs=images(1))) as data:
        assert preprocessor._channel_conversion
        assert all(map(torch.equal, data['inputs'], images(1)))


def test_an_error_leaves_the_preprocessor_as_it_was():
    preprocessor = FastDetDataPreprocessor(**NORMALIZE, bgr_to_rgb=True)
    with pytest.raises(KeyError), sent(preprocessor, dict(inputs=images())):
        raise KeyError
    assert preprocessor._channel_conversion
