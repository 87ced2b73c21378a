"""DINO's losses at once, compared with mmdet's."""

import pytest
import torch
from fast_heads import fast_copy
from mmdet.models import DINOHead
from mmdet.models.dense_heads import detr_head, dino_head
from mmdet.models.losses import FocalLoss, GIoULoss, L1Loss
from mmdet.models.task_modules import DiceCost, HungarianAssigner
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from waits import Waits

from kat_mm.losses import dino
from kat_mm.losses.dino import FastDINOHead

CLASSES, QUERIES, LAYERS, GROUPS = 5, 9, 3, 2
SIZES = [(60, 80), (48, 64)]
COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]


@pytest.fixture
def double():
    """mmdet makes targets of denoising in PyTorch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def heads(change=None, **options):
    """mmdet's and ours, and what was changed."""
    init_default_scope('mmdet')
    train_cfg = dict(assigner=dict(type='HungarianAssigner', match_costs=COSTS))
    head = MODELS.build(
        dict(
            type='DINOHead',
            num_classes=CLASSES,
            embed_dims=8,
            num_pred_layer=LAYERS + 1,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=1.5),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
            **{'train_cfg': train_cfg, 'sync_cls_avg_factor': True, **options},
        )
    )
    if change:
        change(head)
    return head, *fast_copy(head)


def arguments(counts, encoder=True):
    """Of ``loss_by_feat``; predictions have gradients."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(shape, generator=generator)

    def predictions(*shape):
        scores = (4 * random(*shape, CLASSES) - 2).requires_grad_()
        boxes = torch.cat([0.2 + 0.6 * random(*shape, 2), 0.05 + 0.3 * random(*shape, 2)], -1)
        return scores, boxes.requires_grad_()

    of_group = 2 * max(counts)  # a positive and a negative query of each object
    meta = dict(num_denoising_queries=GROUPS * of_group, num_denoising_groups=GROUPS)
    images = len(counts)
    scores, boxes = predictions(LAYERS, images, GROUPS * of_group + QUERIES)
    of_encoder = predictions(images, QUERIES) if encoder else (None, None)
    instances = []
    for count, (height, width) in zip(counts, SIZES, strict=True):
        corner, size = random(count, 2), random(count, 2)
        boxes_of = torch.cat([0.5 * corner, 0.5 * corner + 0.1 + 0.4 * size], 1)
        scale = torch.tensor([width, height] * 2)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        instances.append(InstanceData(labels=labels, bboxes=boxes_of * scale))
    metas = [dict(img_shape=size) for size in SIZES]
    return scores, boxes, *of_encoder, instances, metas, meta


def losses_and_gradients(head, given):
    losses = head.loss_by_feat(*given)
    sources = [one for one in given[:4] if one is not None]
    total = sum(loss.sum() for loss in losses.values())
    return losses, torch.autograd.grad(total, sources)


@pytest.mark.parametrize('encoder', [True, False])
@pytest.mark.parametrize('sync', [True, False])
@pytest.mark.parametrize('counts', [(3, 2), (0, 4), (9, 1), (0, 0), (12, 1)])
def test_losses_and_gradients_are_those_of_mmdet(counts, sync, encoder, double):
    theirs, ours, changed = heads(sync_cls_avg_factor=sync)
    assert changed and type(ours) is FastDINOHead and type(theirs) is DINOHead
    given = arguments(counts, encoder)
    want, want_gradients = losses_and_gradients(theirs, given)
    found, gradients = losses_and_gradients(ours, given)
    assert list(found) == list(want) and len(found) == 3 * (2 * LAYERS + encoder)
    for name, loss in found.items():
        torch.testing.assert_close(loss, want[name].squeeze(), rtol=1e-6, atol=1e-9, msg=name)
        assert loss > 0 or not any(counts)
    for own, other in zip(gradients, want_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('sync', [True, False])
def test_losses_are_averaged_over_processes_as_in_mmdet(sync, monkeypatch, double):
    for module in (detr_head, dino_head, dino):
        monkeypatch.setattr(module, 'reduce_mean', lambda number: 0.75 * number)
    theirs, ours, _ = heads(sync_cls_avg_factor=sync)
    given = arguments((3, 2))
    want, found = (head.loss_by_feat(*given) for head in (theirs, ours))
    for name, loss in found.items():
        torch.testing.assert_close(loss, want[name].squeeze(), rtol=1e-6, atol=1e-9, msg=name)


def test_other_costs_of_mmdet_are_asked(double):
    def change(head):
        head.assigner.match_costs.pop(1)

    theirs, ours, changed = heads(change)
    assert changed
    given = arguments((3, 2))
    want, found = (head.loss_by_feat(*given) for head in (theirs, ours))
    for name, loss in found.items():
        torch.testing.assert_close(loss, want[name].squeeze(), rtol=1e-6, atol=1e-9, msg=name)


def test_the_host_waits_for_costs_alone():
    theirs, ours, _ = heads()
    given, found = arguments((3, 2)), []
    for head in (theirs, ours):
        with Waits() as waits:
            sum(head.loss_by_feat(*given).values()).backward()
        found.append(len(waits.found))
    assert found[0] > 2 * 2 * LAYERS
    assert found[1] == 0


class OwnAssigner(HungarianAssigner):
    pass


class OwnFocalLoss(FocalLoss):
    pass


class OwnL1Loss(L1Loss):
    pass


class OwnGIoULoss(GIoULoss):
    pass


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('assigner', dict(__class__=OwnAssigner)),
        ('assigner', dict(match_costs=[DiceCost()])),
        ('loss_cls', dict(__class__=OwnFocalLoss)),
        ('loss_bbox', dict(__class__=OwnL1Loss)),
        ('loss_bbox', dict(reduction='sum')),
        ('loss_iou', dict(__class__=OwnGIoULoss)),
    ],
)
def test_what_is_not_known_is_left_to_mmdet(name, changes, caplog):
    def change(head):
        for key, value in changes.items():
            setattr(getattr(head, name), key, value)

    with caplog.at_level('INFO'):
        _, ours, changed = heads(change)
    assert not changed and type(ours) is DINOHead
    assert f"head keeps mmdet's way: {name}" in caplog.text


def test_a_weight_of_no_object_is_left_to_mmdet():
    def change(head):
        head.bg_cls_weight = 0.1

    assert heads(change)[2] is False


def test_corners_in_the_cost_of_boxes_are_left_to_mmdet():
    def change(head):
        head.assigner.match_costs[1].box_format = 'xyxy'

    assert heads(change)[2] is False


def test_overlaps_of_another_kind_are_left_to_mmdet():
    def change(head):
        head.assigner.match_costs[2].iou_mode = 'iou'

    assert heads(change)[2] is False


def test_a_head_for_predictions_alone_stays():
    assert heads(train_cfg=None)[2] is False


@pytest.mark.gpu
def test_the_host_waits_for_no_gpu_but_for_costs():
    _, ours, _ = heads()
    given = [
        one.cuda().detach().requires_grad_() if isinstance(one, torch.Tensor) else one
        for one in arguments((3, 2))
    ]
    given[4] = [
        InstanceData(labels=one.labels.cuda(), bboxes=one.bboxes.cuda()) for one in given[4]
    ]
    for mode in ('default', 'error'):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            loss = sum(ours.loss_by_feat(*given).values())
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    assert loss.isfinite()
