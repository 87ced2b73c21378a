"""Batches on their way to the GPU, compared with mmseg's preprocessor."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from waits import Indices

from kat_mm.dense import segmentation_data

SIZE = (6, 8)


def make(**options):
    normalize = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True)
    return SegDataPreProcessor(**{**normalize, 'size': SIZE, **options})


def batch(size=SIZE):
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(3):
        labels = torch.randint(9, (1, *size), generator=generator)
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo(dict(img_shape=size, ori_shape=(9, 9), img_path=f'{index}.png'))
        samples.append(sample)
    images = [torch.randint(256, (3, *size), generator=generator).to(torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def assert_same(got, want):
    assert torch.equal(got['inputs'].cpu(), want['inputs'].cpu())
    for g, w in zip(got['data_samples'], want['data_samples'], strict=True):
        assert torch.equal(g.gt_sem_seg.data.cpu(), w.gt_sem_seg.data.cpu())
        assert g.metainfo == w.metainfo


@pytest.mark.parametrize('options', [{}, dict(bgr_to_rgb=False), dict(mean=None, std=None)])
def test_a_batch_of_one_size_is_that_of_mmseg(options):
    preprocessor = make(**options)
    assert segmentation_data._is_whole(preprocessor, batch())
    got = segmentation_data._training_batch(preprocessor, batch())
    assert_same(got, preprocessor(batch(), training=True))


def test_the_batch_of_the_loader_is_left_as_it_was():
    data = batch()
    segmentation_data._training_batch(make(), data)
    for before, after in zip(batch()['data_samples'], data['data_samples'], strict=True):
        assert before.metainfo == after.metainfo


def test_other_batches_are_left_to_mmseg():
    is_whole = segmentation_data._is_whole
    assert not is_whole(make(), batch((5, 8)))
    assert not is_whole(make(size=None, size_divisor=4), batch())
    edges = batch()
    edges['data_samples'][1].gt_edge_map = PixelData(data=torch.zeros(1, *SIZE))
    assert not is_whole(make(), edges)
    assert not is_whole(make(), dict(inputs=batch()['inputs'], data_samples=None))


def test_other_batches_are_those_of_mmseg():
    preprocessor = make()
    with Indices() as slow:
        want = preprocessor(batch())
    with Indices() as fast:
        got = segmentation_data.preprocess(preprocessor, batch())
    assert_same(got, want)
    assert (slow.found, fast.found) == (3, 0)


@pytest.mark.gpu
@pytest.mark.parametrize('training', [True, False])
def test_the_host_does_not_wait_for_the_gpu(training):
    preprocessor = make().cuda()
    want = preprocessor(batch(), training)
    torch.cuda.set_sync_debug_mode('error')
    try:
        got = segmentation_data.preprocess(preprocessor, batch(), training)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert_same(got, want)
