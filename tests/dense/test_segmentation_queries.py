"""mmseg's Mask2Former with losses at once, compared with itself without."""

import copy
import pickle

import pytest
import torch
from mask2former import mask2former_cfg, rand_by_place
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from waits import Waits

from kat_mm.dense import use_segmentation_kernels
from kat_mm.dense.segmentation_queries import FastSegMask2FormerHead

CLASSES, WIDTH, SIDE = 5, 16, 64


def build(**head):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            backbone=dict(
                type='KAT',
                arch=dict(embed_dims=WIDTH, num_layers=4, num_heads=2, feedforward_channels=32),
                img_size=SIDE,
                out_indices=(0, 1, 2, 3),
                out_type='featmap',
            ),
            neck=dict(
                type='Feature2Pyramid',
                embed_dim=WIDTH,
                rescales=[4, 2, 1, 0.5],
                norm_cfg=dict(type='BN'),
            ),
            decode_head={
                **mask2former_cfg(CLASSES, 0, WIDTH),
                'type': 'Mask2FormerHead',
                'num_classes': CLASSES,
                **head,
            },
            train_cfg=dict(),
            test_cfg=ConfigDict(mode='whole'),
        )
    )
    model.init_weights()
    return model.train()


def fast(model):
    model = copy.deepcopy(model)
    use_segmentation_kernels(model)
    return model


def label_maps(*values):
    """A map of each list of labels, in cells of a quarter."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index, own in enumerate(values):
        cells = torch.tensor(own)[torch.randint(len(own), (1, 4, 4), generator=generator)]
        cells = cells.repeat_interleave(SIDE // 4, 1).repeat_interleave(SIDE // 4, 2)
        shape = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE))
        sample = SegDataSample(metainfo=dict(img_path=f'{index}.jpg', **shape))
        samples.append(sample.set_data(dict(gt_sem_seg=PixelData(data=cells))) or sample)
    return samples


def step(model, samples):
    images = torch.randn(len(samples), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    losses = model.loss(images, samples)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(
        sum(losses.values()), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return losses, dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize('maps', [([0, 4, 255], [2, 1]), ([255], [3, 255]), ([255], [255])])
def test_losses_and_gradients_are_those_of_mmseg(maps, monkeypatch):
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    model = build()
    ours = fast(model)
    assert type(model.decode_head) is Mask2FormerHead
    assert type(ours.decode_head) is FastSegMask2FormerHead
    samples = label_maps(*maps)
    want, want_gradients = step(model, samples)
    found, gradients = step(ours, samples)
    assert found.keys() == want.keys() and len(found) == 9
    for name, loss in found.items():
        torch.testing.assert_close(loss.squeeze(), want[name].squeeze(), msg=name)
    assert gradients.keys() == want_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, want_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_predictions_are_those_of_mmseg():
    model = build().eval()
    ours = fast(model)
    images, samples = torch.randn(2, 3, SIDE, SIDE), label_maps([0], [1])
    with torch.no_grad():
        for one, other in zip(
            ours.predict(images, copy.deepcopy(samples)),
            model.predict(images, copy.deepcopy(samples)),
            strict=True,
        ):
            assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)


def test_half_precision_has_losses_in_float32(monkeypatch):
    """mmseg has no hook that makes predictions float32."""
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    ours, samples = fast(build()), label_maps([0, 4, 255], [2, 1])
    whole = ours.decode_head
    whole.num_points = 259  # bfloat16 rounds their number in all
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 7, CLASSES + 1, generator=generator).bfloat16()
    masks = torch.randn(2, 7, 16, 16, generator=generator).bfloat16()
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        monkeypatch.setattr(
            whole,
            'forward',
            lambda *_, dtype=dtype: ([classes.to(dtype)], [masks.to(dtype)]),
        )
        found.append(whole.loss(None, samples, None))
    for name, loss in found[0].items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, found[1][name], check_dtype=False, msg=name)


def test_the_host_waits_for_nothing_in_the_loss(monkeypatch):
    model = build()
    samples, found = label_maps([0, 4, 255], [2, 1]), []
    for one in (model, fast(model)):
        head = one.decode_head
        predictions = head(one.extract_feat(torch.randn(2, 3, SIDE, SIDE)), samples)
        monkeypatch.setattr(head, 'forward', lambda *_, found=predictions: found)
        with Waits() as waits:
            sum(head.loss(None, samples, None).values()).backward()
        found.append(len(waits.found))
    assert found[0] >= 2 * 3 * len(samples) and found[1] == 0


@pytest.mark.parametrize('label', [CLASSES, 254])
def test_a_label_that_is_no_class_is_refused_with_its_image(label):
    """mmseg takes the first of them for "no object", and a GPU ends at the other."""
    with pytest.raises(ValueError, match=rf'1\.jpg has a label .* 0 to {CLASSES - 1}'):
        step(fast(build()), label_maps([0], [1, label]))


class OwnHead(Mask2FormerHead):
    pass


def own(model):
    model.decode_head.__class__ = OwnHead


def without_train_cfg(model):
    model.decode_head.train_cfg = None


@pytest.mark.parametrize(
    ('change', 'reason'),
    [(own, 'OwnHead is not known'), (without_train_cfg, 'not as in Mask2Former: no train_cfg')],
)
def test_what_is_not_known_is_left_to_mmseg(change, reason, caplog):
    model = build()
    change(model)
    kind = type(model.decode_head)
    with caplog.at_level('INFO'):
        assert type(fast(model).decode_head) is kind
    assert f'The loss of decode_head is computed by mmseg: {reason}' in caplog.text


def test_a_known_head_is_not_said_to_be_left_to_mmseg(caplog):
    with caplog.at_level('INFO'):
        fast(fast(build()))
    assert 'The loss of' not in caplog.text


def test_a_loss_of_mmseg_is_left_to_mmseg(caplog):
    model = build(loss_cls=ConfigDict(type='CrossEntropyLoss', class_weight=[1.0] * (CLASSES + 1)))
    with caplog.at_level('INFO'):
        assert type(fast(model).decode_head) is Mask2FormerHead
    assert 'computed by mmseg: not as in Mask2Former: loss_cls' in caplog.text


def test_it_is_copied_and_pickled_and_its_parameters_keep_their_names():
    model = build()
    ours = fast(model)
    assert ours.state_dict().keys() == model.state_dict().keys()
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied.decode_head) is FastSegMask2FormerHead
        use_segmentation_kernels(copied)
        assert type(copied.decode_head) is FastSegMask2FormerHead
