"""Outputs of queries and heads in NumPy, against mmdet, mmseg and PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kat_mm.export.postprocessing import (
    find_instances,
    find_segments,
    resized_rows,
    segment,
    segment_by_queries,
)

pytestmark = pytest.mark.usefixtures('one_thread')
CLASSES, THINGS, QUERIES = 5, 3, 12
STRIDE, USED, PADDED = 4.0, (46, 61), (48, 64)


@pytest.fixture
def outputs():
    """Classes and masks of queries, sure enough that some are kept."""
    generator = torch.Generator().manual_seed(0)
    classes = 5 * torch.randn(QUERIES, CLASSES + 1, generator=generator)
    masks = torch.randn(QUERIES, 3, 4, generator=generator)
    masks = F.interpolate(masks[None], (12, 16), mode='bicubic')[0] * 6
    return classes, masks


def resize(maps, size, **options):
    return F.interpolate(maps[None], size, mode='bilinear', **options)[0]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(48, 64), (7, 5), (12, 200)])
def test_maps_are_resized_as_by_pytorch_a_few_rows_at_a_time(
    monkeypatch, outputs, size, align_corners
):
    monkeypatch.setattr('kat_mm.export.postprocessing._CHUNK', 4000)
    maps = outputs[1]
    parts = list(resized_rows(maps.numpy(), size, align_corners=align_corners))
    assert size[0] < 10 or len(parts) > 1
    expected = resize(maps, size, align_corners=align_corners)
    found = np.concatenate([values for _, values in parts], 1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    labels = segment(maps.numpy(), size, align_corners)
    assert (labels == expected.argmax(0).numpy()).mean() > 0.999


def test_a_single_class_is_compared_with_its_threshold():
    logits = torch.linspace(-3, 3, 64).view(1, 8, 8)
    found = segment(logits.numpy(), (8, 8), threshold=0.3)
    assert np.array_equal(found, (logits[0].sigmoid() > 0.3).numpy())
    assert 0 < found.mean() < 1


def test_queries_make_the_label_map_that_mmseg_makes(outputs):
    classes, masks = outputs
    size = (47, 61)  # masks reach to the next multiple of the stride, and are stretched to it
    resized = resize(masks, size)
    scores = torch.einsum('qc,qhw->chw', classes.softmax(-1)[:, :-1], resized.sigmoid())
    found = segment_by_queries(classes.numpy(), masks.numpy(), size, size, STRIDE)
    assert (found == scores.argmax(0).numpy()).mean() > 0.999


def fused(outputs, **test_cfg):
    """What mmdet finds in an image of ``USED`` pixels behind padding."""
    from mmdet.models import MaskFormerFusionHead
    from mmdet.structures import DetDataSample

    head = MaskFormerFusionHead(THINGS, CLASSES - THINGS, test_cfg=test_cfg)
    classes, masks = outputs
    meta = dict(img_shape=USED, ori_shape=USED, batch_input_shape=PADDED)
    return head.predict(
        classes[None], resize(masks, PADDED)[None], [DetDataSample(metainfo=meta)], rescale=True
    )[0]


@pytest.mark.parametrize('filter_low_score', [False, True])
def test_segments_are_those_of_mmdet(outputs, filter_low_score):
    from mmdet.evaluation import INSTANCE_OFFSET

    expected = (
        fused(
            outputs,
            panoptic_on=True,
            instance_on=False,
            object_mask_thr=0.5,
            iou_thr=0.2,
            filter_low_score=filter_low_score,
        )['pan_results']
        .sem_seg[0]
        .numpy()
    )
    segments, labels, scores = find_segments(
        *(output.numpy() for output in outputs), USED, USED, STRIDE, THINGS, 0.5, 0.2,
        filter_low_score,
    )  # fmt: skip
    assert len(labels) == len(scores) == segments.max() + 1 >= 3
    assert (labels < THINGS).any() and (labels >= THINGS).any()
    things = np.where(labels < THINGS, (labels < THINGS).cumsum(), 0)
    found = np.append(labels + things * INSTANCE_OFFSET, CLASSES)[segments]
    assert (found == expected).mean() > 0.999


def test_objects_are_those_of_mmdet(outputs):
    test_cfg = dict(panoptic_on=False, instance_on=True, max_per_image=15)
    expected = fused(outputs, **test_cfg)['ins_results']
    order = expected.scores.argsort(descending=True)
    boxes, scores, labels, masks = find_instances(
        *(output.numpy() for output in outputs), USED, USED, STRIDE, THINGS, 15
    )
    assert len(scores) == len(order) >= 5
    np.testing.assert_allclose(scores, expected.scores[order].numpy(), rtol=1e-5)
    assert np.array_equal(labels, expected.labels[order].numpy())
    np.testing.assert_allclose(boxes, expected.bboxes[order].numpy(), atol=1)
    assert (masks == expected.masks[order].numpy()).mean() > 0.999
    chosen = find_instances(
        *(output.numpy() for output in outputs), USED, USED, STRIDE, THINGS, 15, 0.5
    )[1]
    assert np.array_equal(chosen, scores[scores >= 0.5]) and 0 < len(chosen) < len(scores)
