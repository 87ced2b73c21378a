"""EoMT learns a few drawn images by heart: AP, PQ and mIoU of what it predicts for them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.evaluation import CocoMetric
from mmdet.structures import INSTANCE_OFFSET
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmseg.evaluation import IoUMetric
from tools_runner import ROOT

from kat_mm.engine.mask_annealing import MaskAnnealingHook
from kat_mm.evaluation import PanopticQuality
from kat_mm.sample_data import SampleSettings, make_sample_data

ITERATIONS = 240


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['coco'], folder, SampleSettings(6, 1, 96, 64))
    init_default_scope('mmdet')
    load = [dict(type='LoadImageFromFile'), dict(type='kat_mm.LoadPanopticAnnotations')]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    resize = dict(type='Resize', scale=(96, 64), keep_ratio=False)
    return DATASETS.build(
        dict(
            type='CocoPanopticDataset',
            data_root=str(folder / 'coco'),
            ann_file='annotations/panoptic_train2017.json',
            data_prefix=dict(img='train2017', seg='annotations/panoptic_train2017'),
            pipeline=[*load, resize, dict(type='PackDetInputs', meta_keys=keys)],
        )
    )


def build():
    cfg = Config.fromfile(ROOT / 'configs/kat_s_eomt_panoptic_coco.py')
    cfg.model.backbone.update(
        arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96),
        img_size=(64, 96),
        patch_size=8,
        init_cfg=None,
    )
    cfg.model.data_preprocessor.batch_augments = None
    cfg.model.panoptic_head.update(in_channels=48, patch_size=8, num_queries=40, num_blocks=2)
    cfg.model.train_cfg.num_points = 512
    cfg.model.test_cfg.update(instance_on=True, object_mask_thr=0.3)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def train(dataset):
    model = build().train()
    wrapper = dict(
        optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.0), clip_grad=dict(max_norm=0.01)
    )
    optim_wrapper = build_optim_wrapper(model, wrapper)
    hook = MaskAnnealingHook(
        begin=[ITERATIONS // 2, ITERATIONS * 5 // 8], end=[ITERATIONS * 3 // 4] * 2
    )
    batch = pseudo_collate([dataset[i] for i in range(len(dataset))])
    for iteration in range(ITERATIONS):
        model.panoptic_head.set_mask_rates(hook.rates(iteration))
        for group in optim_wrapper.optimizer.param_groups:
            group['lr'] = 2e-3 * min(1, iteration / 20) * (1 - iteration / ITERATIONS) ** 0.9
        model.train_step(batch, optim_wrapper)
    return model


@torch.no_grad()
def evaluate(model, dataset):
    """AP of masks, PQ and mIoU, in percent."""
    model.eval()
    root = dataset.data_root
    annotations = f'{root}/annotations'
    quality = PanopticQuality(
        f'{annotations}/panoptic_train2017.json', f'{annotations}/panoptic_train2017'
    )
    precision = CocoMetric(f'{annotations}/instances_train2017.json', metric='segm')
    precision.dataset_meta = dict(classes=dataset.metainfo['classes'][:80])
    quality.dataset_meta = dataset.metainfo
    areas = []
    for index in range(len(dataset)):
        data = pseudo_collate([dataset[index]])
        sample = model.test_step(data)[0]
        truth = dataset[index]['data_samples'].gt_sem_seg.sem_seg[0]
        as_dict = sample.to_dict()
        quality.process({}, [as_dict])
        precision.process({}, [as_dict])
        labels = sample.pred_panoptic_seg.sem_seg % INSTANCE_OFFSET
        labels = F.interpolate(labels[None].float(), truth.shape)[0, 0].long()  # at its size
        areas.append(IoUMetric.intersect_and_union(labels, truth, 133, 255))
    both, either, _, true = (sum(one) for one in zip(*areas, strict=True))
    miou = 100 * np.mean((both / either)[true > 0].numpy())
    return (
        100 * precision.evaluate(len(dataset))['coco/segm_mAP'],
        quality.evaluate(len(dataset))['coco_panoptic/PQ'],
        float(miou),
    )


@pytest.mark.slow
def test_it_reaches_what_it_does_not_untrained_or_with_its_masks_off(dataset):
    model = train(dataset)
    for found, least in zip(evaluate(model, dataset), (25, 50, 60), strict=True):
        assert found > least
    with torch.no_grad():
        for parameter in model.panoptic_head.mask_embed[-1].parameters():
            parameter.zero_()
    for other in (model, build()):
        assert max(evaluate(other, dataset)) < 5
