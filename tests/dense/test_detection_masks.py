import copy

import numpy as np
import pytest
import torch
from mmdet.models import FCNMaskHead
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict

from kat_mm.dense import detection_masks
from kat_mm.dense.detection_masks import FastFCNMaskHead, PaddedMasks, paste


def random_masks(count, side=7):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(count, side, side, generator=generator).double()
    corner = 40 * torch.rand(count, 2, generator=generator).double() - 5
    return masks, torch.cat(
        [corner, corner + 1 + 30 * torch.rand(count, 2, generator=generator)], dim=1
    )


def test_masks_are_pasted_as_by_mmdet():
    masks, boxes = random_masks(20)
    boxes[3, 2:] = boxes[3, :2]  # without extent
    want, _ = _do_paste_mask(masks[:, None], boxes.float(), 37, 50, skip_empty=False)
    got = paste(masks, boxes.float(), 37, 50)
    assert got.shape == want.shape and want.max() > 0.9
    torch.testing.assert_close(got.float(), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize('class_agnostic', [True, False])
@pytest.mark.parametrize('rescale', [True, False])
def test_predictions_of_the_mask_head_are_those_of_mmdet(class_agnostic, rescale, monkeypatch):
    head = FCNMaskHead(num_convs=1, num_classes=4, class_agnostic=class_agnostic)
    fast = copy.deepcopy(head)
    fast.__class__ = FastFCNMaskHead
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)  # as it goes on a GPU
    monkeypatch.setattr(detection_masks, '_MOST_BYTES', 5 * 60 * 90 * 4)
    masks, boxes = random_masks(12)
    logits = masks.float().logit()[:, None].repeat(1, 1 if class_agnostic else 4, 1, 1)
    labels = torch.arange(12) % 4
    meta = dict(scale_factor=(0.5, 0.75), ori_shape=(60, 90))
    cfg = ConfigDict(mask_thr_binary=0.5)
    results = []
    for one in (head, fast):
        own = boxes.float()
        pasted = one._predict_by_feat_single(logits, own, labels, meta, cfg, rescale)
        results.append((pasted, own))
    (want, want_boxes), (got, got_boxes) = results
    assert torch.equal(got_boxes, want_boxes)
    assert got.shape == want.shape and got.dtype == torch.bool
    assert (got != want).sum() <= 5 and want.sum() > 1000


def test_masks_of_their_size_are_not_copied_and_others_are_padded():
    masks = BitmapMasks(np.random.default_rng(0).integers(2, size=(3, 5, 6), dtype=np.uint8), 5, 6)
    fast = PaddedMasks.of(masks)
    assert fast.pad((5, 6)) is fast and fast.masks is masks.masks
    for shape, value in (((8, 6), 0), ((7, 9), 1)):
        want, got = masks.pad(shape, value), fast.pad(shape, value)
        assert np.array_equal(got.masks, want.masks) and got.masks.dtype == want.masks.dtype
        assert (got.height, got.width) == (want.height, want.width)
    assert PaddedMasks.of(BitmapMasks([], 5, 6)).pad((8, 9)).masks.shape == (0, 8, 9)
