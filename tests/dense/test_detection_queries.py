"""Predictions of queries, compared with mmdet's."""

import pytest
import torch
from fast_heads import fast_copy
from mmdet.models import MaskFormerFusionHead
from mmdet.structures.mask import mask2bbox
from mmengine.config import ConfigDict
from torch import nn
from waits import Waits

from kat_mm.dense.detection_queries import FastMaskFormerFusionHead, boxes_of

THINGS, QUERIES, SIZE = 5, 12, (30, 40)


def heads(stuff, **options):
    """mmdet's and ours."""
    head = MaskFormerFusionHead(THINGS, stuff, test_cfg=ConfigDict(options))
    ours, changed = fast_copy(head)
    assert changed and type(ours) is FastMaskFormerFusionHead
    return head, ours


def logits(stuff, seed=0):
    """Of queries that are sure of a class, most of them, and of masks that overlap."""
    generator = torch.Generator().manual_seed(seed)
    classes = 8 * torch.randn(QUERIES, THINGS + stuff + 1, generator=generator)
    masks = torch.randn(1, QUERIES, 4, 5, generator=generator)
    masks = nn.functional.interpolate(masks, SIZE, mode='bilinear')[0]
    return classes, 4 * masks + torch.randn(QUERIES, *SIZE, generator=generator)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('iou_thr', [0.0, 0.3, 0.8])
@pytest.mark.parametrize('filter_low_score', [True, False])
def test_panoptic_maps_are_those_of_mmdet(seed, iou_thr, filter_low_score):
    slow, fast = heads(4, iou_thr=iou_thr, filter_low_score=filter_low_score, object_mask_thr=0.6)
    classes, masks = logits(4, seed)
    masks[3] = -9.0  # of a query with a class and no pixel
    with Waits() as waits_of_mmdet:
        want = slow.panoptic_postprocess(classes, masks).sem_seg
    with Waits() as waits:
        got = fast.panoptic_postprocess(classes, masks).sem_seg
    assert want.dtype == got.dtype and torch.equal(want, got)
    assert len(waits.found) == 1 < len(waits_of_mmdet.found)
    if iou_thr == 0:  # so that there is something to compare
        assert len(want.unique()) > 3


def test_a_panoptic_map_of_nothing_is_that_of_mmdet():
    slow, fast = heads(4)
    classes, masks = torch.zeros(QUERIES, THINGS + 5), torch.zeros(QUERIES, *SIZE)
    want, got = (head.panoptic_postprocess(classes, masks).sem_seg for head in (slow, fast))
    assert want.dtype == got.dtype and torch.equal(want, got)


@pytest.mark.parametrize('stuff', [0, 4])
@pytest.mark.parametrize('most', [7, QUERIES * THINGS])
def test_objects_are_those_of_mmdet(stuff, most):
    slow, fast = heads(stuff, max_per_image=most)
    classes, masks = logits(stuff)
    masks[2] = -9.0
    want = slow.instance_postprocess(classes, masks)
    with Waits() as waits:
        got = fast.instance_postprocess(classes, masks)
    assert want.keys() == got.keys() and len(want) == len(got) > 0
    for name, value in want.items():
        assert value.dtype == got[name].dtype and torch.equal(value, got[name]), name
    assert len(waits.found) == bool(stuff)


def test_boxes_of_masks_are_those_of_mmdet():
    masks = logits(0)[1] > 4
    masks[0], masks[1], masks[2] = False, True, False
    masks[2, -1, -1] = True
    assert torch.equal(boxes_of(masks), mask2bbox(masks))
    assert boxes_of(masks[:0]).shape == (0, 4)
