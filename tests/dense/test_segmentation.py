"""mmseg's segmentors with our operators, compared with themselves without."""

import copy
import functools
import logging
import pickle

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

import kat_mm
from kat_mm.dense import segmentation_norm, use_segmentation_kernels

CLASSES, WIDTH = 7, 16
ARCH = dict(embed_dims=WIDTH, num_layers=4, num_heads=2, feedforward_channels=32)
NORM = dict(type='BN')
COMMON = dict(num_classes=CLASSES, dropout_ratio=0.0, align_corners=False, norm_cfg=NORM)
PYRAMID = dict(in_channels=[WIDTH] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=CLASSES)
HEADS = {
    'UPerHead': dict(type='UPerHead', **{**COMMON, **PYRAMID}, pool_scales=(1, 2, 3)),
    'FCNHead': dict(type='FCNHead', **COMMON, in_channels=WIDTH, in_index=2, channels=8),
    'PSPHead': dict(
        type='PSPHead', **COMMON, in_channels=WIDTH, in_index=2, channels=8, pool_scales=(1, 2)
    ),
    'SegformerHead': dict(type='SegformerHead', **{**COMMON, **PYRAMID}),
    'SegmenterMaskTransformerHead': dict(
        type='SegmenterMaskTransformerHead',
        **{**COMMON, 'norm_cfg': dict(type='LN')},
        in_channels=WIDTH,
        in_index=2,
        channels=8,
        num_layers=1,
        num_heads=2,
        embed_dims=WIDTH,
    ),
    'FPNHead': dict(type='FPNHead', **{**COMMON, **PYRAMID}, feature_strides=[4, 8, 16, 32]),
}
SLIDE = dict(mode='slide', crop_size=(32, 32), stride=(21, 21))
WHOLE = dict(mode='whole')


def build(
    head='UPerHead', loss=None, test_cfg=WHOLE, aux=True, neck=None, **changes
) -> EncoderDecoder:
    init_default_scope('mmseg')
    torch.manual_seed(0)
    loss = dict(type='CrossEntropyLoss') if loss is None else loss
    heads = [{**HEADS[head], 'loss_decode': loss, **changes}, HEADS['FCNHead']]
    model = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            backbone=dict(
                type='KAT',
                arch=ARCH,
                img_size=32,
                patch_size=8,
                out_indices=(0, 1, 2, 3),
                out_type='featmap',
            ),
            neck=dict(
                dict(type='Feature2Pyramid', embed_dim=WIDTH, rescales=[4, 2, 1, 0.5]),
                **(neck or dict(norm_cfg=NORM)),
            ),
            decode_head=heads[0],
            auxiliary_head=heads[1] if aux else None,
            train_cfg=dict(),
            test_cfg=test_cfg,
        )
    )
    model.init_weights()
    return model.double()


def with_kernels(model, **options):
    adapted = copy.deepcopy(model)
    use_segmentation_kernels(adapted, **options)
    return adapted


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).double()


def samples(size=(32, 32), **meta):
    generator = torch.Generator().manual_seed(2)
    result = []
    for _ in range(2):
        labels = torch.randint(CLASSES, (1, *size), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size) | meta)
        result.append(sample)
    return result


def step(model):
    model.train()
    losses = model.loss(images(32, 32), samples())
    model.zero_grad()
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


def assert_same_step(model, **options):
    (want, want_grads), (got, grads) = step(model), step(with_kernels(model, **options))
    assert got.keys() == want.keys()
    for name, value in want.items():
        rtol = 1e-6 if 'acc' in name else 1e-9  # which mmseg computes in float32
        torch.testing.assert_close(got[name], value, rtol=rtol, atol=0, check_dtype=False)
    for name, grad in want_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-7, atol=1e-9)


def assert_same_prediction(model, size, **meta):
    model.eval()
    adapted = with_kernels(model)
    with torch.no_grad():
        want = model.predict(images(*size), samples(size, **meta))
        got = adapted.predict(images(*size), samples(size, **meta))
    for g, w in zip(got, want, strict=True):
        assert g.pred_sem_seg.data.dtype == w.pred_sem_seg.data.dtype
        assert torch.equal(g.pred_sem_seg.data, w.pred_sem_seg.data)
        assert w.pred_sem_seg.data.unique().numel() > 2
        assert 'seg_logits' not in g


@pytest.mark.parametrize('head', HEADS)
def test_losses_accuracy_and_gradients_are_those_of_mmseg(head):
    assert_same_step(build(head))


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='CrossEntropyLoss', loss_weight=0.4, avg_non_ignore=True),
        dict(type='CrossEntropyLoss', class_weight=[0.5, 1, 1.5, 2, 0, 1, 3]),
        dict(type='CrossEntropyLoss', reduction='sum'),
        [
            dict(type='CrossEntropyLoss', loss_name='loss_a'),
            dict(type='CrossEntropyLoss', loss_name='loss_a', avg_non_ignore=True),
            dict(type='CrossEntropyLoss', loss_name='loss_b', loss_weight=2.0),
        ],
    ],
)
def test_averages_and_weights_are_those_of_mmseg(loss):
    assert_same_step(build('FCNHead', loss, aux=False))


def test_corners_may_be_aligned():
    assert_same_step(build('UPerHead', align_corners=True))
    assert_same_prediction(build('FCNHead', align_corners=True), (32, 32), ori_shape=(40, 50))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(sampler=dict(type='OHEMPixelSampler', min_kept=50)), 'OHEMPixelSampler samples'),
        (dict(loss=dict(type='DiceLoss')), 'DiceLoss needs full-size logits'),
        (
            dict(loss=[dict(type='CrossEntropyLoss'), dict(type='DiceLoss', loss_name='loss_d')]),
            'DiceLoss needs full-size logits',
        ),
        (dict(loss=dict(type='CrossEntropyLoss', use_sigmoid=True)), 'CrossEntropyLoss is binary'),
    ],
)
def test_samplers_and_other_losses_are_left_to_mmseg_with_a_word(changes, message, caplog):
    model = build('FCNHead', **changes, aux=False)
    with caplog.at_level(logging.INFO):
        assert_same_step(model)
    assert message in caplog.text


@pytest.mark.parametrize('head', ['UPerHead', 'SegmenterMaskTransformerHead'])
@pytest.mark.parametrize('test_cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_predictions_are_those_of_mmseg(head, test_cfg):
    size = (32, 32) if test_cfg is WHOLE else (48, 75)
    assert_same_prediction(build(head, test_cfg=test_cfg), size, ori_shape=(61, 83))


@pytest.mark.parametrize(
    'meta',
    [
        dict(padding_size=[3, 2, 1, 4]),
        dict(img_padding_size=[0, 5, 0, 3], flip=True, flip_direction='horizontal'),
        dict(flip=True, flip_direction='vertical'),
    ],
)
@pytest.mark.parametrize('test_cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_padding_is_cut_off_and_flips_are_undone(test_cfg, meta):
    size = (32, 32) if test_cfg is WHOLE else (37, 42)
    assert_same_prediction(build('FCNHead', test_cfg=test_cfg), size, ori_shape=(29, 50), **meta)


def test_images_smaller_than_a_window_and_images_without_samples():
    model = build('FCNHead', test_cfg=SLIDE).eval()
    assert_same_prediction(model, (24, 40), ori_shape=(20, 30))
    with torch.no_grad():
        want, got = (m.predict(images(40, 40)) for m in (model, with_kernels(model)))
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g.pred_sem_seg.data, w.pred_sem_seg.data)


def test_logits_are_kept_on_demand():
    model = build('FCNHead').eval()
    adapted = with_kernels(model, keep_logits=True)
    with torch.no_grad():
        want, got = (m.predict(images(32, 32), samples()) for m in (model, adapted))
    torch.testing.assert_close(got[0].seg_logits.data, want[0].seg_logits.data)


def test_a_segmentor_with_an_inference_of_its_own_keeps_it(caplog):
    class Own(EncoderDecoder):
        def inference(self, inputs, batch_img_metas):
            return super().inference(inputs, batch_img_metas)

    model = build('FCNHead').eval()
    model.__class__ = Own
    with caplog.at_level(logging.INFO):
        adapted = with_kernels(model)
    assert 'Own has a method inference of its own' in caplog.text
    with torch.no_grad():
        assert 'seg_logits' in adapted.predict(images(32, 32), samples())[0]


def test_another_model_of_the_process_stays_what_it_was(monkeypatch):
    used = []

    def count(function, *args, **kwargs):
        used.append(1)
        return function(*args, **kwargs)

    for name in ('resize', 'resized_cross_entropy'):
        counted = functools.partial(count, getattr(kat_mm.ops, name))
        monkeypatch.setattr(f'kat_mm.dense.segmentation.{name}', counted)
    model = build()
    adapted = with_kernels(model)
    step(model)
    assert not used
    step(adapted)
    # 3 pooled maps, 3 steps from the top down, 3 levels to the finest; two losses
    assert len(used) == 11


def test_the_state_dict_and_copies_are_as_without():
    model = build()
    adapted = with_kernels(model)
    assert adapted.state_dict().keys() == model.state_dict().keys()
    for other in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert other.decode_head.loss_by_feat.args[0] is other.decode_head
        assert other.decode_head.forward.args[0] is other.decode_head
        assert other.predict.args[0] is other


def test_a_second_call_changes_nothing(caplog):
    adapted = with_kernels(build('FCNHead'))
    before = vars(adapted.decode_head)['forward']
    caplog.clear()
    with caplog.at_level(logging.INFO):
        use_segmentation_kernels(adapted)
    assert vars(adapted.decode_head)['forward'] is before and not caplog.text


def test_other_models_stay_as_they_are(caplog):
    model = torch.nn.Linear(2, 2)
    with caplog.at_level(logging.INFO):
        use_segmentation_kernels(model)
    assert 'Linear is no EncoderDecoder' in caplog.text and 'forward' not in vars(model)


def test_synchronised_norms_of_neck_and_heads_do_not_wait():
    synchronised = dict(norm_cfg=dict(type='SyncBN'))
    model = build(neck=synchronised, **synchronised)
    adapted = with_kernels(model)
    norms = {n: m for n, m in adapted.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert {name.split('.')[0] for name in norms} == {'neck', 'decode_head'}
    for norm in norms.values():
        assert norm.forward.func is segmentation_norm.forward
        assert norm.forward.args == (norm,)  # of the copy itself
    assert_same_step(model)
