"""Configs of KArAt: what they say."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from kat_mm.checks.arguments import check_arguments
from kat_mm.layers import GRKAN, MLP, KArAt, SoftmaxAttention

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / 'configs').glob('*_karat_*.py'))
CLASSIFIERS = [name for name in NAMES if not name.endswith(('coco', 'ade20k'))]


def load(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('name', NAMES)
def test_the_attention_is_what_the_name_says(name):
    backbone = load(name).model.backbone
    assert backbone.attn_cfg.type == 'KArAt'
    letter = {'t': 'tiny', 's': 'small', 'b': 'base'}[name.split('_')[1]]
    assert backbone.arch == letter
    basis = backbone.attn_cfg.get('basis', dict(type='fourier', grid=3))
    assert basis['type'] == 'fourier' and basis['grid'] == (1 if letter == 'base' else 3)
    assert backbone.ffn_cfg.type == ('GRKAN' if name.startswith('kat') else 'MLP')
    mode = 'universal' if 'universal' in name else 'blockwise'
    assert backbone.attn_cfg.get('mode', 'blockwise') == mode
    # What the authors' command lines say, in the file or by default.
    said = dict(depth=2, modular='phi1_w2', rank=12, base='zero', project_l1=False, scales=False)
    defaults = inspect.signature(KArAt).parameters
    for argument, value in said.items():
        assert backbone.attn_cfg.get(argument, defaults[argument].default) == value


def test_the_comparison_differs_in_the_attention_alone():
    karat, softmax = (load(f'vit_t_{kind}_cifar10').to_dict() for kind in ('karat', 'softmax'))
    for cfg in (karat, softmax):
        cfg.pop('attn_cfg', None)
    assert karat['model']['backbone'].pop('attn_cfg')['type'] == 'KArAt'
    assert softmax['model']['backbone'].pop('attn_cfg') == dict(
        type='SoftmaxAttention', init='trunc_normal'
    )
    assert karat == softmax


def test_the_universal_and_the_both_in_one_model_are_built():
    universal = MODELS.build(load('vit_t_karat_universal_cifar10').model).backbone
    assert len({id(block.attn.operator) for block in universal.blocks}) == 1
    both = MODELS.build(load('kat_t_karat_cifar10').model).backbone.blocks[0]
    assert (type(both.attn), type(both.mlp)) == (KArAt, GRKAN)
    plain = MODELS.build(load('vit_t_softmax_cifar10').model).backbone.blocks[0]
    assert (type(plain.attn), type(plain.mlp)) == (SoftmaxAttention, MLP)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_recipe_is_that_of_the_command_lines_or_of_the_papers_third_version(name):
    # 5e-4 scaled by batch / 512, for 100 epochs of which 5 warm up, from 1e-6 and down to 1e-5.
    cfg, batch = load(name), 32 if '_v3_' in name else 128
    optimizer, (warm_up, cosine) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr) == ('AdamW', pytest.approx(5e-4 * batch / 512))
    assert optimizer.weight_decay == 0.05
    assert warm_up.start_factor * optimizer.lr == pytest.approx(1e-6)
    assert (warm_up.end, cosine.end, cosine.eta_min, cfg.train_cfg.max_epochs) == (
        5,
        100,
        1e-5,
        100,
    )
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == batch
    assert (cfg.model.backbone.drop_path_rate, cfg.model.backbone.img_size) == (0.1, 224)
    (crop,) = (s for s in cfg.train_dataloader.dataset.pipeline if s.type.endswith('Crop'))
    assert crop.scale == 224


@pytest.mark.parametrize('data', ['cifar10', 'cifar100'])
def test_the_third_version_differs_as_its_table_5_says(data):
    cfg, before = load(f'vit_t_karat_v3_{data}'), load(f'vit_t_karat_{data}')
    assert cfg.model == before.model
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for key in ('type', 'data_root', 'split'):
            assert cfg[loader].dataset[key] == before[loader].dataset[key]
    steps, earlier = (
        {s.type: s for s in c.train_dataloader.dataset.pipeline} for c in (cfg, before)
    )
    augment, crop = steps['RandAugment'], steps['RandomResizedCrop']
    assert augment.policies == 'timm_increasing'
    assert (augment.magnitude_level, augment.num_policies, augment.magnitude_std) == (15, 2, 1.0)
    assert (crop.crop_ratio_range, crop.aspect_ratio_range) == ((0.08, 1.0), (0.67, 1.5))
    changed = {name for name in steps if steps[name] != earlier[name]}
    assert steps.keys() == earlier.keys() and changed == {'RandAugment', 'RandomResizedCrop'}
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        resize, crop, _ = loader.dataset.pipeline
        assert crop.crop_size / resize.scale == pytest.approx(0.9, abs=1e-3)
    assert cfg.optim_wrapper.optimizer.eps == 1e-6
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=1.0)
    *_, average = cfg.custom_hooks
    assert average.type == 'EMAHook' and 1 - average.momentum == pytest.approx(0.99992)


@pytest.mark.parametrize('name', NAMES)
def test_every_argument_passes_the_checks_before_a_run(name):
    check_arguments(load(name).model, 'model')


CLASSES = dict(cifar10=10, cifar100=100, in1k=1000, svhn=10, flowers102=102, stl10=10)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_head_and_preprocessor_have_the_classes_of_the_data(name):
    model = load(name).model
    assert (
        model.head.num_classes
        == model.data_preprocessor.num_classes
        == CLASSES[name.rpartition('_')[2]]
    )


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_augmentation_fills_in_the_mean_colour_in_the_order_of_the_image(name):
    cfg = load(name)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    order = -1 if cfg.model.data_preprocessor.to_rgb else 1
    mean, std = (cfg.model.data_preprocessor[key][::order] for key in ('mean', 'std'))
    assert steps['RandAugment'].hparams.pad_val == [round(value) for value in mean]
    assert (steps['RandomErasing'].fill_color, steps['RandomErasing'].fill_std) == (mean, std)


class Arrays:
    """What torchvision's classes give: (N, RGB, H, W)."""

    downloads = []

    def __init__(self, root, split, download):
        self.downloads.append((root, split, download))
        self.data = np.zeros((4, 3, 32, 32), dtype=np.uint8)
        self.data[:, 0] = 200  # red
        self.labels = np.arange(4)


@pytest.mark.parametrize('name', ['svhn', 'stl10'])
def test_sets_of_torchvision_go_through_both_pipelines(name, monkeypatch, tmp_path):
    import torchvision.datasets

    cfg = load(f'vit_t_karat_{name}')
    monkeypatch.setattr(torchvision.datasets, name.upper(), Arrays)
    monkeypatch.setattr(Arrays, 'downloads', [])
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(tmp_path / name)
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == 4 and len(dataset.metainfo['classes']) == 10
        assert dataset.get_data_info(3)['img'][0, 0].tolist() == [0, 0, 200]
        sample = dataset[3]
        assert sample['inputs'].shape == (3, 224, 224) and sample['inputs'].dtype == torch.uint8
        assert sample['data_samples'].gt_label.item() == 3
    folder = str(tmp_path / name)
    splits = [
        (folder, split, download) for split in ('train', 'test') for download in (True, False)
    ]
    assert Arrays.downloads == splits


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(name='MNIST', split='train'), ["'MNIST'", 'SVHN', 'STL10']),
        (dict(name='SVHN', split='val'), ["split='val'", "'train' or 'test'"]),
    ],
)
def test_unknown_sets_and_splits_are_refused(arguments, words):
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError) as raised:
        DATASETS.build(dict(type='TorchvisionArrays', data_root='x', **arguments))
    for word in words:
        assert word in str(raised.value)


def test_cifars_images_go_through_the_pipeline(monkeypatch):
    from mmpretrain.datasets import CIFAR10

    image = np.zeros((32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(CIFAR10, 'load_data_list', lambda self: [dict(img=image, gt_label=7)])
    for name in ('vit_t_karat_cifar10', 'vit_t_karat_cifar100'):
        cfg = load(name)
        assert not cfg.model.data_preprocessor.to_rgb  # they are RGB already
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            sample = DATASETS.build(loader.dataset)[0]
            assert sample['inputs'].shape == (3, 224, 224)
            assert sample['data_samples'].gt_label.item() == 7


def test_curves_go_to_weights_and_biases_by_an_option():
    cfg = load('vit_t_karat_cifar10')
    cfg.merge_from_dict({'visualizer.vis_backends.0.type': 'WandbVisBackend'})
    assert cfg.visualizer.vis_backends == [dict(type='WandbVisBackend')]
