"""Every config, found by its default scope: a training step and predictions, at a small size.

There is no list of names to forget a config in: a new file in configs/ is tested here at once.
Those of which a smaller model is tested, and twins of a tested config, are marked slow.
"""

import re

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from small_configs import CONFIGS, SIZE, load, shrink
from twins import assert_twins

SIZES = re.compile('_([tsbl])_')


def is_slow(path):
    """Whether it differs from another one in its size or in its feed-forward alone."""
    size = SIZES.search(path.stem)
    smaller = 'tsbl'.partition(size[1])[0] if size else ''
    twin = path.with_name(path.name.replace('vit_', 'kat_'))
    return (twin != path and twin in CONFIGS) or any(
        path.with_name(SIZES.sub(f'_{size}_', path.name, count=1)) in CONFIGS for size in smaller
    )


def classifier_batch(model, cfg):
    from mmpretrain.structures import DataSample

    labels = torch.randint(0, cfg.model.head.num_classes, (2,))
    return dict(
        inputs=torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(label) for label in labels],
    )


def detector_batch(model, cfg):
    from mmdet.testing import demo_mm_inputs

    panoptic = getattr(model, 'panoptic_head', None) or getattr(model, 'semantic_head', None)
    with_mask = model.with_mask or hasattr(getattr(model, 'bbox_head', None), 'mask_head')
    classes = [m.num_classes for m in model.modules() if hasattr(m, 'num_classes')]
    batch = demo_mm_inputs(
        2,
        [[3, SIZE, SIZE]] * 2,
        num_items=[2, 3],
        num_classes=panoptic.num_things_classes if panoptic else max(classes),
        with_mask=with_mask or panoptic is not None,
    )
    if panoptic and panoptic.num_stuff_classes:
        for sample in batch['data_samples']:
            stuff = torch.randint(panoptic.num_stuff_classes, (4, 4)) + panoptic.num_things_classes
            labels = stuff.repeat_interleave(SIZE // 4, 0).repeat_interleave(SIZE // 4, 1)
            sample.gt_sem_seg = PixelData(sem_seg=labels[None])
    return batch


def segmenter_batch(model, cfg):
    from mmseg.structures import SegDataSample

    model.data_preprocessor.size = (SIZE, SIZE)
    samples = []
    for _ in range(2):
        # Not more classes than queries: 64 squares.
        labels = torch.randint(0, model.decode_head.num_classes, (1, 8, 8))
        labels = labels.repeat_interleave(SIZE // 8, 1).repeat_interleave(SIZE // 8, 2)
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo(dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


# By the scope: how a batch is made, and what a prediction has.
TASKS = dict(
    mmpretrain=(classifier_batch, 'pred_score'),
    mmdet=(detector_batch, 'pred_instances'),
    mmseg=(segmenter_batch, 'pred_sem_seg'),
)
PANOPTIC = 'pred_panoptic_seg'


def test_every_config_belongs_to_a_task():
    assert len(CONFIGS) >= 53
    assert {load(path).default_scope for path in CONFIGS} == set(TASKS)


def test_every_dense_vit_is_the_twin_of_a_kat():
    paths = [path for path in CONFIGS if path.stem.startswith('vit_') and 'karat' not in path.stem]
    dense = [path for path in paths if load(path).default_scope != 'mmpretrain']
    assert len(dense) >= 33
    for path in dense:
        kat = path.with_name(path.name.replace('vit_', 'kat_'))
        assert_twins(load(kat).to_dict(), load(path).to_dict())


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * is_slow(path))
        for path in CONFIGS
    ],
)
def test_a_step_of_every_config_reaches_every_weight_of_the_backbone_and_it_predicts(path):
    cfg = load(path)
    shrink(cfg)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    for key, parameter in model.named_parameters():
        # From zero no gradient reaches what is before; of the other mmdet keeps what memory held.
        if '.lora_up.' in key or key == 'level_embed':
            torch.nn.init.normal_(parameter)
    make_batch, prediction = TASKS[cfg.default_scope]
    wrapper = {**cfg.optim_wrapper, 'type': 'OptimWrapper'}
    for key in ('dtype', 'loss_scale'):
        wrapper.pop(key, None)
    optim_wrapper = build_optim_wrapper(model, wrapper)
    batch = make_batch(model, cfg)
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    parameters = {
        key: parameter
        for key, parameter in model.named_parameters()
        if key.startswith('backbone.') and parameter.requires_grad
    }
    assert bool(parameters) == (not re.search('_frozen_|_linear_', path.stem))
    if not parameters:
        trained = getattr(model, 'decode_head', getattr(model, 'head', None))
        parameters = dict((model.neck if model.with_neck else trained).named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    for key, gradient in zip(parameters, gradients, strict=True):
        assert gradient.isfinite().all() and gradient.any(), key
    optim_wrapper.update_params(loss)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        predictions = model.test_step(make_batch(model, cfg))
    assert len(predictions) == 2
    assert all(prediction in sample or PANOPTIC in sample for sample in predictions)
