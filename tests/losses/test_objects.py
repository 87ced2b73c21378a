"""Objects of a batch, against mmdet's and mmseg's image by image."""

import copy

import numpy as np
import pytest
import torch
from eomt_reference import TRAIN_CFG, head_cfg
from mmdet.models.dense_heads.maskformer_head import MaskFormerHead
from mmdet.structures.mask import BitmapMasks
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.structures import SegDataSample
from waits import Waits

from kat_mm.dense.detection import use_fast_heads
from kat_mm.engine.runtime_info import clip_late, on_the_way
from kat_mm.losses.objects import Regions, things_of

THINGS, STUFF, SIZE = 3, 2, 32
CLASSES = THINGS + STUFF


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def build():
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
    cfg = ConfigDict(
        type='kat_mm.EoMT',
        backbone=dict(type='KAT', arch=arch, img_size=SIZE, out_type='featmap'),
        panoptic_head=head_cfg(
            CLASSES,
            type='kat_mm.EoMTHead',
            in_channels=16,
            num_things_classes=THINGS,
            num_stuff_classes=STUFF,
            num_queries=9,
            num_blocks=2,
        ),
        panoptic_fusion_head=dict(
            type='MaskFormerFusionHead', num_things_classes=THINGS, num_stuff_classes=STUFF
        ),
        train_cfg=TRAIN_CFG,
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.7, 116.3, 103.5],
            std=[58.4, 57.1, 57.4],
            bgr_to_rgb=True,
            pad_mask=True,
            pad_seg=True,
            seg_pad_value=255,
        ),
    )
    model = MODELS.build(cfg).train()
    model.panoptic_head.set_mask_rates((1.0, 0.5))
    use_fast_heads(model)
    return model


def panoptic_batch(num_items, maps=True):
    data = demo_mm_inputs(
        len(num_items),
        [[3, SIZE, SIZE]] * len(num_items),
        num_items=list(num_items),
        num_classes=THINGS,
        with_mask=True,
        with_semantic=False,
    )
    generator = torch.Generator().manual_seed(0)
    for index, sample in enumerate(data['data_samples']):
        count = num_items[index]
        masks = torch.rand(count, SIZE, SIZE, generator=generator) < 0.3
        sample.gt_instances.masks = BitmapMasks(masks.byte().numpy(), SIZE, SIZE)
        if maps:  # classes of things, of regions and of nothing; none at all in the last image
            labels = torch.tensor([0, THINGS, 255, CLASSES - 1] if index < 1 else [THINGS - 1, 255])
            cells = labels[torch.randint(len(labels), (1, 4, 4), generator=generator)]
            cells = cells.repeat_interleave(SIZE // 4, 1).repeat_interleave(SIZE // 4, 2)
            sample.gt_sem_seg = PixelData(sem_seg=cells)
    return data


def handed_on(head, monkeypatch):
    """Instances with which losses are asked for."""
    seen = []
    plain = head.loss_by_feat

    def loss_by_feat(classes, masks, instances, metas):
        seen.extend(instances)
        return plain(classes, masks, instances, metas)

    monkeypatch.setattr(head, 'loss_by_feat', loss_by_feat)
    return seen


def assert_same(got, want):
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert len(ours) == len(theirs)
        found = {}
        for label, mask in zip(ours.labels.tolist(), ours.masks, strict=True):
            found.setdefault(label, []).append(mask.long())
        for label, mask in zip(theirs.labels.tolist(), theirs.masks, strict=True):
            assert torch.equal(found[label].pop(0), mask)


@pytest.mark.parametrize('maps', [True, False])
@pytest.mark.parametrize('num_items', [(2, 3), (0, 2), (0, 0)])
def test_objects_of_panoptic_maps_are_those_of_mmdet(maps, num_items, monkeypatch):
    model = build()
    data = model.data_preprocessor(panoptic_batch(num_items, maps), True)
    seen = handed_on(model.panoptic_head, monkeypatch)
    model(**data, mode='loss')
    samples = data['data_samples']
    want = MaskFormerHead.preprocess_gt(
        model.panoptic_head,
        [sample.gt_instances for sample in samples],
        [sample.get('gt_sem_seg') for sample in samples],
    )
    assert_same(seen, want)
    # Two regions in the first image, none in the second.
    assert [len(one) for one in seen] == [num_items[0] + 2 * maps, num_items[1]]


def semantic_head():
    cfg = head_cfg(CLASSES, type='kat_mm.EoMTSemanticHead', in_channels=16)
    cfg = dict(cfg, num_classes=CLASSES, num_queries=9, train_cfg=ConfigDict(TRAIN_CFG))
    return MODELS.build(ConfigDict(cfg))


def label_maps(*labels):
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.tensor(own).repeat_interleave(8).expand(1, 16, -1)),
            metainfo=dict(img_path=f'{index}.jpg'),
        )
        for index, own in enumerate(labels)
    ]


def losses_of_maps(head, samples, monkeypatch):
    predictions = [torch.randn(len(samples), 9, CLASSES + 1)], [torch.randn(len(samples), 9, 4, 4)]
    monkeypatch.setattr(head, 'forward', lambda *_: predictions)
    return head.loss(None, samples, None)


def test_objects_of_label_maps_are_those_of_mmseg(monkeypatch):
    head = semantic_head()
    samples = label_maps([0, 4, 255], [255, 255, 255], [2, 2, 1])
    seen = handed_on(head, monkeypatch)
    losses_of_maps(head, samples, monkeypatch)
    assert_same(seen, Mask2FormerHead._seg_data_to_instance_data(head, samples)[0])
    assert [one.labels.tolist() for one in seen] == [[0, 4], [], [1, 2]]


def test_an_ignored_class_is_no_object(monkeypatch):
    head = semantic_head()
    head.ignore_index = 1
    seen = handed_on(head, monkeypatch)
    losses_of_maps(head, label_maps([0, 1, 2]), monkeypatch)
    assert seen[0].labels.tolist() == [0, 2]


@pytest.mark.parametrize('label', [5, 254, -1])
def test_a_label_that_is_no_class_is_refused_with_its_image(label, monkeypatch):
    samples = label_maps([0, 255, 255], [1, label, 255])
    with pytest.raises(ValueError, match=r'1\.jpg has a label .* 0 to 4, nor ignore_index=255'):
        losses_of_maps(semantic_head(), samples, monkeypatch)


def test_any_value_but_zero_is_of_a_mask():
    values = np.array([[[0, 1], [255, 2]]], np.uint8)
    found = InstanceData(labels=torch.tensor([1]), masks=BitmapMasks(values, 2, 2))
    assert things_of([found])[1].tolist() == [[[False, True], [True, True]]]


def test_maps_of_bytes_are_read_too():
    maps = torch.tensor([[[3, 4, 255, 0]]], dtype=torch.uint8)
    images, labels, masks = Regions(maps, 3, 4).found()
    assert images == [0, 0] and labels.tolist() == [3, 4]
    assert masks.flatten(1).tolist() == [[True, False, False, False], [False, True, False, False]]


def test_no_operator_of_a_step_makes_the_host_wait():
    model = build()
    data = model.data_preprocessor(panoptic_batch((2, 3)), True)
    data['data_samples'][0].gt_instances.labels[:] = 1
    with Waits() as waits:
        sum(model(**data, mode='loss').values()).backward()
    assert waits.found == []
    with waits:
        model.panoptic_head.preprocess_gt(
            [sample.gt_instances for sample in data['data_samples']],
            [sample.gt_sem_seg for sample in data['data_samples']],
        )
    assert {'_unique2', '_local_scalar_dense'} <= set(waits.found)  # as mmdet does it


@pytest.mark.gpu
def test_the_host_waits_for_no_gpu_in_a_step():
    model = build().cuda()
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='AmpOptimWrapper',
            dtype='bfloat16',
            optimizer=dict(type='AdamW', lr=1e-4, fused=True),
            clip_grad=dict(max_norm=0.01),
        ),
    )
    clip_late(wrapper)
    data = panoptic_batch((2, 3))
    for mode in ('default', 'error'):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            model.panoptic_head.set_mask_rates((1.0, 0.5))
            values = on_the_way(model.train_step(copy.deepcopy(data), wrapper))
        finally:
            torch.cuda.set_sync_debug_mode('default')
    values[2].synchronize()
    assert all(torch.as_tensor(value).isfinite() for value in values[1])
