"""Mask2Former's losses at once, compared with mmdet's."""

import pytest
import torch
from fast_heads import fast_copy
from mask2former import mask2former_cfg, rand_by_place
from mmdet.models import Mask2FormerHead
from mmdet.models.dense_heads import mask2former_head
from mmdet.models.losses import DiceLoss
from mmdet.models.task_modules import HungarianAssigner, MaskPseudoSampler
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from waits import Waits

from kat_mm.losses import mask2former
from kat_mm.losses.mask2former import FastMask2FormerHead

LEVELS = [(2, 8, side, side) for side in (16, 8, 4, 2)]
SIDE = 64


def mask2formers(things=3, stuff=2, change=None):
    """mmdet's and ours, of the same weights."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head = MODELS.build(mask2former_cfg(things, stuff))
    head.init_weights()
    if change:
        change(head)
    return head, *fast_copy(head)


def samples_of(counts, maps=True, things=3, stuff=2):
    """Of images with so many objects; with maps there are two regions in the first image alone."""
    generator = torch.Generator().manual_seed(3)
    samples = []
    for image, count in enumerate(counts):
        masks = torch.rand(count, SIDE, SIDE, generator=generator) < 0.3
        sample = DetDataSample(metainfo=dict(img_path=f'{image}.jpg'))
        sample.gt_instances = InstanceData(
            labels=torch.randint(things, (count,), generator=generator),
            masks=BitmapMasks(masks.byte().numpy(), SIDE, SIDE),
        )
        if maps:
            labels = torch.tensor([0, things, 255, things + stuff - 1] if image < 1 else [0, 255])
            cells = labels[torch.randint(len(labels), (1, 4, 4), generator=generator)]
            cells = cells.repeat_interleave(SIDE // 4, 1).repeat_interleave(SIDE // 4, 2)
            sample.gt_sem_seg = PixelData(sem_seg=cells)
        samples.append(sample)
    return samples


def losses_and_gradients(head, samples):
    torch.manual_seed(1)
    features = [torch.randn(shape, requires_grad=True) for shape in LEVELS]
    losses = head.loss(features, samples)
    # Those that no loss reaches are zero in one way of adding up, and none in the other.
    sources = [*features, *head.parameters()]
    found = torch.autograd.grad(sum(losses.values()), sources, allow_unused=True)
    gradients = [
        torch.zeros_like(source) if one is None else one
        for source, one in zip(sources, found, strict=True)
    ]
    return losses, gradients


def assert_losses_are_mmdets(theirs, ours, samples):
    want, want_gradients = losses_and_gradients(theirs, samples)
    found, gradients = losses_and_gradients(ours, samples)
    assert list(found) == list(want) and len(found) == 9
    for name, loss in found.items():
        torch.testing.assert_close(loss.squeeze(), want[name].squeeze(), msg=name)
    for own, other in zip(gradients, want_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    return found


@pytest.mark.parametrize('maps', [True, False])
@pytest.mark.parametrize('counts', [(3, 2), (0, 4), (0, 0)])
def test_losses_of_mask2former_are_those_of_mmdet(maps, counts, monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    theirs, ours, changed = mask2formers()
    assert changed
    assert type(theirs) is Mask2FormerHead and type(ours) is FastMask2FormerHead
    losses = assert_losses_are_mmdets(theirs, ours, samples_of(counts, maps))
    assert all(loss > 0 for loss in losses.values()) == (maps or any(counts))


def test_losses_without_regions_are_those_of_mmdet(monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    theirs, ours, _ = mask2formers(stuff=0)
    assert_losses_are_mmdets(theirs, ours, samples_of((1, 3), maps=False))


def test_losses_are_averaged_over_processes_as_in_mmdet(monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    for module in (mask2former_head, mask2former):
        monkeypatch.setattr(module, 'reduce_mean', lambda number: 0.75 * number)
    theirs, ours, _ = mask2formers()
    assert_losses_are_mmdets(theirs, ours, samples_of((3, 2)))


def test_losses_with_more_segments_than_queries_are_those_of_mmdet(monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    theirs, ours, _ = mask2formers()
    assert_losses_are_mmdets(theirs, ours, samples_of((9, 1)))


@pytest.mark.parametrize('image', [0, 1])
def test_maps_of_some_images_are_read_too(image, monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    theirs, ours, _ = mask2formers()
    samples = samples_of((3, 2))[:: 1 if image == 0 else -1]
    del samples[1 - image].gt_sem_seg
    assert_losses_are_mmdets(theirs, ours, samples)


@pytest.mark.parametrize(
    'options',
    [
        dict(num_points=97),
        dict(oversample_ratio=2.0, importance_sample_ratio=0.25),
        dict(importance_sample_ratio=1.0),
    ],
)
def test_points_are_as_many_as_the_config_says(options, monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)

    def change(head):
        vars(head).update(options)

    theirs, ours, _ = mask2formers(change=change)
    assert_losses_are_mmdets(theirs, ours, samples_of((3, 2)))


def test_processes_of_which_one_has_more_segments_than_queries_exchange_as_much(monkeypatch):
    """Else they wait for each other for ever, or abort."""
    _, ours, _ = mask2formers()
    exchanged = []
    monkeypatch.setattr(mask2former, 'reduce_mean', lambda number: exchanged.append(0) or number)
    for counts in ((9, 1), (3, 2), (0, 0)):
        ours.loss([torch.randn(shape) for shape in LEVELS], samples_of(counts))
    assert len(exchanged) == 3


def test_the_host_waits_for_no_loss_of_mask2former(monkeypatch):
    theirs, ours, _ = mask2formers()
    samples = samples_of((3, 2))
    found = []
    for head in (theirs, ours):
        predictions = head([torch.randn(shape) for shape in LEVELS], samples)
        monkeypatch.setattr(head, 'forward', lambda *_, found=predictions: found)
        with Waits() as waits:
            sum(head.loss(None, samples).values()).backward()
        found.append(len(waits.found))
    assert found[0] >= 2 * 3 * len(samples) and found[1] == 0


@pytest.mark.gpu
def test_the_host_waits_for_no_gpu_in_the_loss_of_mask2former(monkeypatch):
    _, ours, _ = mask2formers()
    samples = [sample.to('cuda') for sample in samples_of((3, 2))]
    found = ours.cuda()([torch.randn(shape, device='cuda') for shape in LEVELS], samples)
    monkeypatch.setattr(ours, 'forward', lambda *_: found)
    for mode in ('default', 'error'):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            loss = sum(ours.loss(None, samples).values())
            loss.backward(retain_graph=True)
        finally:
            torch.cuda.set_sync_debug_mode('default')
    assert loss.isfinite()


class OwnAssigner(HungarianAssigner):
    pass


class OwnSampler(MaskPseudoSampler):
    pass


class OwnLoss(DiceLoss):
    pass


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('assigner', dict(__class__=OwnAssigner)),
        ('assigner', dict(match_costs=[])),
        ('sampler', dict(__class__=OwnSampler)),
        ('loss_dice', dict(__class__=OwnLoss)),
        ('loss_dice', dict(reduction='sum')),
        ('loss_mask', dict(use_sigmoid=False)),
        ('loss_cls', dict(use_sigmoid=True)),
        ('loss_cls', dict(use_mask=True)),
        ('loss_cls', dict(ignore_index=3)),
        ('loss_cls', dict(class_weight=[1.0] * 6)),
    ],
)
def test_what_mask2former_does_not_have_is_left_to_mmdet(name, changes, caplog):
    def change(head):
        for key, value in changes.items():
            setattr(getattr(head, name), key, value)

    with caplog.at_level('INFO'):
        _, ours, changed = mask2formers(change=change)
    assert not changed and type(ours) is Mask2FormerHead
    assert f"head keeps mmdet's way: {name}" in caplog.text


def test_a_head_for_predictions_alone_stays():
    head = MODELS.build(dict(mask2former_cfg(3, 2), train_cfg=None))
    assert type(fast_copy(head)[0]) is Mask2FormerHead
