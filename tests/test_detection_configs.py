import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, MODELS, init_default_scope
from mmengine.structures import InstanceData
from twins import assert_twins

from kat_mm.datasets import SeededInfiniteSampler
from kat_mm.datasets.wrappers import inner_datasets
from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.sample_data import SampleSettings, make_sample_data

ROOT = Path(__file__).resolve().parents[1]
DETECTORS = sorted((ROOT / 'configs').glob('*_rcnn_*.py'))
# KArAt's configs have tests/test_karat_configs.py.
TWINS = [path for path in DETECTORS if path.name.startswith('vit_') and '_karat_' not in path.name]


def load(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.stem)
def test_the_model_of_every_detection_config_builds(path, quick_build):
    cfg = load(path.stem)
    model = MODELS.build(cfg.model)
    backbone, strides = cfg.model.backbone, cfg.model.rpn_head.anchor_generator.strides
    scales = cfg.model.neck.get('scales', (4, 2, 1, 0.5))
    assert [backbone.patch_size / scale for scale in scales] == strides[: len(scales)]
    assert cfg.model.neck.get('num_outs', 5) == len(strides)
    assert cfg.model.neck.in_channels == model.backbone.embed_dims
    windows = [block.attn.window_size for block in model.backbone.blocks]
    assert windows == 4 * [backbone.window_size, backbone.window_size, 0]
    # Class token, and DINOv3's registers too.
    extra = {'dinov2': 1, 'dinov3': 5}.get(path.stem.partition('_')[0], 0)
    assert model.backbone.num_extra_tokens == extra
    dataset = next(inner_datasets(cfg.train_dataloader.dataset))
    assert model.with_mask == ('_mask_' in path.stem)
    known = DATASETS.get(dataset.type).METAINFO['classes']
    classes = dataset.get('metainfo', {}).get('classes', known)
    for name, module in model.roi_head.named_modules():
        if hasattr(module, 'num_classes'):
            assert module.num_classes == len(classes), name


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.stem)
def test_boxes_can_be_scaled_back_to_the_image(path):
    cfg = load(path.stem)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        types = [transform.type for transform in loader.dataset.pipeline]
        # The truth is loaded behind Resize, which would scale it.
        assert types.index('Resize') < types.index('LoadAnnotations')
        assert 'scale_factor' in loader.dataset.pipeline[-1].meta_keys


@pytest.fixture(scope='module')
def coco_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['coco'], folder, SampleSettings(2, 1))
    return folder / 'coco'


@pytest.mark.parametrize('name', [path.stem for path in DETECTORS if path.stem.startswith('kat_')])
def test_detection_pipelines_give_images_with_their_objects(name, coco_root):
    cfg = load(name)
    samples = []
    for split in ('train', 'val'):
        dataset = CocoDataset(
            data_root=str(coco_root),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017'),
            pipeline=next(inner_datasets(cfg[f'{split}_dataloader'].dataset)).pipeline,
        )
        samples.append(dataset[0])
    for sample in samples:
        truth = sample['data_samples'].gt_instances
        height, width = sample['inputs'].shape[1:]
        assert sample['data_samples'].img_shape == (height, width)
        assert len(truth) and truth.bboxes.tensor.min() >= 0
        if '_mask_' in name:
            assert truth.masks.masks.shape[0] == len(truth)
    height, width = samples[1]['inputs'].shape[1:]
    if 'lsj' in name:
        assert (height, width) == (1024, 1024)
        assert max(samples[0]['inputs'].shape) <= 1024
    elif name.endswith('coco'):
        assert min(height, width) == 800 or max(height, width) == 1333


def detection_step(name, half_precision=False):
    """Losses and gradients of a detection config at a small size, with one box in each image."""
    cfg = load(name)
    cfg.model.backbone.update(img_size=64, drop_path_rate=0.0)
    cfg.model.data_preprocessor.batch_augments = None
    cfg.model.train_cfg.rpn_proposal.max_per_img = 20
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for name, param in model.named_parameters():
        if 'rel_pos' in name:  # whose start is zero
            torch.nn.init.normal_(param, std=0.02)
    samples = []
    for _ in range(2):
        box = torch.tensor([[8.0, 12.0, 44.0, 52.0]])
        instances = InstanceData(bboxes=HorizontalBoxes(box), labels=torch.tensor([1]))
        if model.with_mask:
            mask = np.zeros((1, 64, 64), np.uint8)
            mask[:, 12:52, 8:44] = 1
            instances.masks = BitmapMasks(mask, 64, 64)
        sample = DetDataSample(gt_instances=instances)
        sample.set_metainfo(dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1, 1)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    if half_precision:
        keep_boxes_in_float32(model)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=half_precision):
        loss, losses = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    return losses, model


@pytest.mark.parametrize(
    'name',
    [
        'kat_t_mask_rcnn_coco',
        'vit_t_mask_rcnn_coco',
        'kat_s_cascade_mask_rcnn_coco',
        'kat_t_faster_rcnn_bccd',
        'kat_t_mask_rcnn_sample',
    ],
)
def test_a_detection_step_reaches_every_weight(name, one_thread):
    losses, model = detection_step(name)
    assert losses['loss'].isfinite()
    assert {'loss_rpn_cls', 'loss_rpn_bbox'} <= losses.keys()
    assert any(key.endswith('loss_bbox') for key in losses)
    assert any(key.endswith('loss_mask') for key in losses) == model.with_mask
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
        assert param.grad.any(), name


def test_boxes_stay_in_float32_where_a_detector_trains_in_half_precision(one_thread):
    expected, _ = detection_step('kat_t_mask_rcnn_sample')
    # Without the hook mmcv's operators refuse bfloat16.
    found, _ = detection_step('kat_t_mask_rcnn_sample', half_precision=True)
    for key in ('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'):
        assert found[key].item() == pytest.approx(expected[key].item(), rel=0.05), key
    hooks = [hook.type for hook in load('kat_t_mask_rcnn_sample').custom_hooks]
    assert hooks == ['SeedIterationHook', 'AverageLossHook', 'Float32BoxesHook']


def test_the_detection_recipe_is_that_of_the_paper():
    # KAT, section 5: AdamW, 1e-4, total batch 16, 36 epochs, 800x1333.
    cfg = load('kat_s_mask_rcnn_coco')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', 1e-4)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16
    assert cfg.train_dataloader.sampler.group_size == 16
    # 117,266 training images have an object.
    assert cfg.train_cfg.max_iters == 36 * math.ceil(117_266 / 16)
    for split in ('train', 'val'):
        pipeline = next(inner_datasets(cfg[f'{split}_dataloader'].dataset)).pipeline
        (resize,) = [transform for transform in pipeline if transform.type == 'Resize']
        assert resize.scale == (1333, 800) and resize.keep_ratio


def test_the_lsj_recipe_is_vitdets():
    cfg = load('kat_b_mask_rcnn_lsj_coco')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.1)
    assert optimizer.betas == (0.9, 0.999)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.7
    assert cfg.auto_scale_lr.base_batch_size == 16 * cfg.train_dataloader.batch_size == 64
    warmup, steps = cfg.param_scheduler
    assert warmup.end == 250
    # 100 epochs of 118,287 images, as detectron2 counts them, within half a percent.
    assert cfg.train_cfg.max_iters == pytest.approx(100 * 118_287 / 64, rel=5e-3)
    fractions = [milestone / cfg.train_cfg.max_iters for milestone in steps.milestones]
    assert fractions == pytest.approx([0.889, 0.963], abs=5e-4)
    (resize,) = [t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomResize']
    assert resize.scale == (1024, 1024) and resize.ratio_range == (0.1, 2.0)
    assert cfg.model.backbone.drop_path_rate == 0.1


def test_layer_decay_of_the_lsj_config_is_vitdets_for_every_parameter(quick_build):
    cfg = load('kat_b_mask_rcnn_lsj_coco')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {param: name for name, param in model.named_parameters()}
    found = {
        names[param]: (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for param in group['params']
    }
    assert found.keys() == set(names.values())
    for name, (lr, weight_decay) in found.items():
        # A factor of 0.7 for each layer up to the heads: 1 for the last of 12 blocks, 13 for the
        # patches.
        below = 0
        if name.startswith(('backbone.patch_embed', 'backbone.pos_embed')):
            below = 13
        elif name.startswith('backbone.blocks.'):
            below = 12 - int(name.split('.')[2])
        assert lr == pytest.approx(1e-4 * 0.7**below), name
        # All decay but the backbone's norms and positions (detectron2's); and rational functions.
        ours = '.act1.' in name or '.act2.' in name
        spared = name.startswith('backbone.') and ('norm' in name or 'pos_embed' in name)
        decays = not (ours or spared)
        assert weight_decay == (0.1 if decays else 0.0), name


@pytest.mark.parametrize('path', TWINS, ids=lambda path: path.stem)
def test_vit_twins_differ_from_kat_in_the_feed_forward_and_their_start(path):
    assert_twins(load(path.stem.replace('vit_', 'kat_')).to_dict(), load(path.stem).to_dict())


def test_every_vit_has_a_twin():
    names = {path.stem.replace('vit_', 'kat_') for path in TWINS}
    assert names == {path.stem for path in DETECTORS if path.name.startswith('kat_')}
    assert len(names) >= 9


def test_augmentation_depends_on_the_position_in_training_alone():
    for path in DETECTORS:
        cfg = load(path.stem)
        for dataset in inner_datasets(cfg.train_dataloader.dataset):
            assert dataset.pipeline[0].type == 'SeedAugmentation', path.stem
        sampler = DATA_SAMPLERS.get(cfg.train_dataloader.sampler.type)
        assert issubclass(sampler, SeededInfiniteSampler), path.stem


def test_schedules_end_with_the_training():
    for path in DETECTORS:
        cfg = load(path.stem)
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters, path.stem
        assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin, path.stem
