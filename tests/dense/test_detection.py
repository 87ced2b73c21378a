"""Heads of mmdet with and without ours: the same losses, gradients and predictions."""

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from mmdet.models import MaskRCNN, RPNHead
from mmdet.models.dense_heads import rpn_head
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from kat_mm.dense import detection_boxes
from kat_mm.dense.detection import use_fast_heads
from kat_mm.dense.detection_roi import FastRoIHead
from kat_mm.dense.detection_rpn import FastRPNHead

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
SMALL = {
    'backbone.arch': dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    'backbone.global_attn_indices': (1,),
    'neck.in_channels': 16,
}


@pytest.fixture(autouse=True)
def suppression_in_float64(monkeypatch):
    """mmcv's, on a CPU, knows float32 alone."""

    def batched_nms(boxes, scores, levels, cfg):
        index = torchvision.ops.batched_nms(boxes, scores, levels, cfg['iou_threshold'])
        return torch.cat([boxes[index], scores[index, None]], dim=1), index

    monkeypatch.setattr(rpn_head, 'batched_nms', batched_nms)


def load_config(name='kat_t_mask_rcnn_sample', **changes):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    cfg.merge_from_dict({f'model.{key}': value for key, value in {**SMALL, **changes}.items()})
    return cfg


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.rpn_head.init_weights()
    torch.manual_seed(1)
    for layer in (model.rpn_head.rpn_reg, model.rpn_head.rpn_cls):  # proposals of many sizes
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model.double()


def batch(*counts, size=SIZE, pad=None, seed=0):
    rng = np.random.default_rng(seed)
    samples = []
    for count in counts:
        corner, extent = rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.1, 0.4, (count, 2))
        boxes = np.concatenate([corner, corner + extent], axis=1) * size
        masks = np.zeros((count, size, size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < 0.8
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.tensor(boxes),
                labels=torch.tensor(rng.integers(4, size=count), dtype=torch.long),
                masks=BitmapMasks(masks, size, size),
            )
        )
        shape = (size, size)
        sample.set_metainfo(
            dict(
                img_shape=shape, ori_shape=shape, pad_shape=pad or shape, batch_input_shape=shape,
                scale_factor=(1.0, 1.0),
            )
        )  # fmt: skip
        samples.append(sample)
    images = torch.tensor(rng.normal(size=(len(counts), 3, size, size)))
    return images, samples


@pytest.fixture
def same_draws(monkeypatch):
    """Both ways draw by a key that comes of each prior's place."""
    latest = {}

    def key_of(boxes):
        places = (boxes.double() * 1000).round() @ boxes.new_tensor([1.3, 2.7, 3.1, 5.9]).double()
        return (places * 0.6180339887).frac().abs()

    def remember(kind, method, find):
        function = getattr(kind, method)

        def wrapped(self, *args):
            result = function(self, *args)
            latest['keys'] = key_of(find(args, result))
            return result

        monkeypatch.setattr(kind, method, wrapped)

    remember(FastRPNHead, '_assign', lambda args, result: args[0])
    remember(FastRoIHead, '_assign', lambda args, result: result[0])
    monkeypatch.setattr(
        detection_boxes, 'draw_keys', lambda assigned: latest['keys'].expand(assigned.shape)
    )
    for name, is_candidate in (('_sample_pos', torch.gt), ('_sample_neg', torch.eq)):

        def draw(self, assigned, wanted, bboxes, is_candidate=is_candidate, **_):
            found = is_candidate(assigned.gt_inds, 0).nonzero()[:, 0]
            return found[key_of(bboxes)[found].argsort(descending=True)[:wanted]]

        monkeypatch.setattr(RandomSampler, name, draw)


def losses_and_gradients(model, images, samples):
    model.train()
    losses = model.loss(images, copy.deepcopy(samples))
    total, logged = model.parse_losses(losses)
    total.backward()
    return (
        {name: value.item() for name, value in logged.items()},
        {name: p.grad for name, p in model.named_parameters()},
    )


def compare(cfg, images, samples, expected=('rpn_head', 'roi_head')):
    plain = build(cfg)
    fast = copy.deepcopy(plain)
    assert set(expected) <= set(use_fast_heads(fast))
    (want, want_grads), (got, got_grads) = (
        losses_and_gradients(model, images, samples) for model in (plain, fast)
    )
    assert list(want) == list(got)
    for name in want:
        assert got[name] == pytest.approx(want[name], rel=1e-6, abs=1e-9), name
    for name, grad in want_grads.items():
        if grad is None:
            assert got_grads[name] is None, name
        else:
            torch.testing.assert_close(
                got_grads[name], grad, rtol=1e-5, atol=1e-7 * grad.abs().max().item() + 1e-12
            )
    return want


def test_losses_and_gradients_are_those_of_mmdet(same_draws):
    losses = compare(load_config(), *batch(3, 5))
    assert all(losses[name] > 0 for name in losses)


@pytest.mark.parametrize(
    'changes',
    [
        {
            'roi_head.bbox_head.reg_class_agnostic': False,
            'roi_head.mask_head.class_agnostic': False,
        },
        {'train_cfg.rpn.allowed_border': 0, 'train_cfg.rcnn.pos_weight': 2.0},
        {'train_cfg.rpn.sampler.neg_pos_ub': 2, 'train_cfg.rcnn.sampler.neg_pos_ub': 1},
        {'train_cfg.rcnn.sampler.add_gt_as_proposals': False},
        {'train_cfg.rcnn.sampler.num': 512},  # more than there are
        {'train_cfg.rcnn.assigner.match_low_quality': True},
        {'roi_head.mask_roi_extractor': None, 'train_cfg.rcnn.mask_size': 14},
        {
            'rpn_head.loss_bbox': dict(type='SmoothL1Loss', beta=0.1),
            'train_cfg.rpn.pos_weight': 3.0,
        },
        {'train_cfg.rpn_proposal.min_bbox_size': 8, 'train_cfg.rcnn.soft_mask_target': True},
        {'train_cfg.rpn_proposal.nms_pre': 20},
    ],
    ids=lambda changes: '-'.join(key.rsplit('.', 1)[-1] for key in changes),
)
def test_settings_of_a_config_have_the_same_effect(changes, same_draws):
    compare(load_config(**changes), *batch(3, 5))


def test_images_without_objects(same_draws):
    compare(load_config(), *batch(0, 4))
    losses = compare(load_config(), *batch(0, 0))
    assert losses['loss_mask'] == losses['loss_bbox'] == 0


def test_images_that_do_not_fill_the_batch(same_draws):
    compare(load_config(), *batch(3, 5, pad=(48, 40)))


def predict(model, images, samples, rescale):
    with torch.no_grad():
        return [
            sample.pred_instances
            for sample in model.eval().predict(images, copy.deepcopy(samples), rescale)
        ]


@pytest.mark.parametrize(
    'changes, rescale',
    [
        ({}, True),
        ({'roi_head.bbox_head.reg_class_agnostic': False}, False),
        ({'roi_head.mask_head': None, 'roi_head.mask_roi_extractor': None}, True),
        ({'test_cfg.rcnn.score_thr': 1.0}, True),
        ({'test_cfg.rcnn.nms.type': 'soft_nms'}, True),
    ],
)
def test_predictions_are_those_of_mmdet(changes, rescale, monkeypatch):
    monkeypatch.undo()  # mmcv's own suppression
    cfg = load_config(**{'test_cfg.rcnn.max_per_img': 30, **changes})
    plain = build(cfg).float()
    images, samples = batch(2, 3, 1)
    for sample in samples:
        sample.set_metainfo(dict(scale_factor=(0.5, 0.25), ori_shape=(256, 128)))
    fast = copy.deepcopy(plain)
    use_fast_heads(fast)
    want, got = (predict(model, images.float(), samples, rescale) for model in (plain, fast))
    for one, other in zip(want, got, strict=True):
        assert set(one.keys()) == set(other.keys())
        for key in one.keys():
            if one[key].dtype == torch.bool:
                assert one[key].shape == other[key].shape
                assert (one[key] != other[key]).sum() <= 1e-3 * one[key].numel()
            else:
                torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-3)
    found = sum(map(len, want))
    assert (found == 0) == (changes.get('test_cfg.rcnn.score_thr') == 1.0)


def test_other_parts_keep_the_way_of_mmdet_and_the_log_says_which(caplog):
    cfg = load_config(
        **{
            'train_cfg.rpn.sampler.type': 'InstanceBalancedPosSampler',
            'roi_head.bbox_head.loss_cls': dict(type='FocalLoss', use_sigmoid=True),
            'roi_head.bbox_roi_extractor.roi_layer.sampling_ratio': 2,
        }
    )
    model = build(cfg)
    classes = {name: type(module) for name, module in model.named_modules()}
    with caplog.at_level(logging.INFO, logger='kat_mm'):
        changed = use_fast_heads(model)
    assert changed == ['data_preprocessor', 'roi_head.mask_roi_extractor', 'roi_head.mask_head']
    for name, module in model.named_modules():
        assert (type(module) is classes[name]) == (name not in changed)
    assert "rpn_head keeps mmdet's way: sampler" in caplog.text
    assert "roi_head keeps mmdet's way: bbox_head.loss_cls" in caplog.text


def test_other_models_of_the_process_and_the_state_are_left_alone():
    cfg = load_config()
    model, other = build(cfg), build(cfg)
    names = list(model.state_dict())
    use_fast_heads(model)
    assert list(model.state_dict()) == names
    assert isinstance(model, MaskRCNN) and isinstance(model.rpn_head, FastRPNHead)
    assert type(other) is MaskRCNN and type(other.rpn_head) is RPNHead
    images, samples = batch(2)
    same = copy.deepcopy(model)
    assert losses_and_gradients(same, images, samples)[0].keys()
    assert isinstance(same.rpn_head, FastRPNHead)


def test_proposals_are_those_of_mmdet_to_heads_that_are_not_ours():
    plain = build(load_config())
    fast = copy.deepcopy(plain)
    use_fast_heads(fast)
    images, samples = batch(2, 3)
    maps = [torch.randn(2, 64, 16 // 2**i, 16 // 2**i).double() for i in range(4)]
    want, got = (model.rpn_head.predict(maps, samples) for model in (plain, fast))
    assert len(want) == len(got) == 2
    for one, other in zip(want, got, strict=True):
        assert len(one) > 20
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(other[key], one[key])
