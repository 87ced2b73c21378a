import copy
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from twins import assert_twins

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*_upernet_*.py'))
# KArAt's configs have tests/test_karat_configs.py.
TWINS = sorted(
    path for path in CONFIGS if path.name.startswith('vit_') and '_karat_' not in path.name
)


def load(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


def train_step(name):
    """One step of the config at a small size: losses, model and gradients."""
    cfg = load(name)
    height = width = 64
    cfg.model.data_preprocessor.size = (height, width)
    cfg.model.backbone.img_size = (height, width)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.train()
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    wrapper.pop('dtype', None)
    optim_wrapper = build_optim_wrapper(model, wrapper)
    samples = []
    for _ in range(2):
        labels = torch.randint(0, cfg.model.decode_head.num_classes, (1, height, width))
        labels[:, :4] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo(dict(img_shape=(height, width), ori_shape=(height, width)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, losses = model.parse_losses(model(**data, mode='loss'))
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    optim_wrapper.update_params(loss)
    return losses, model, gradients


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_the_model_of_every_config_builds(path, quick_build):
    cfg = load(path.stem).model
    if 'module' in cfg.backbone:  # adapters read what they are built upon
        cfg.backbone.module.init_cfg = None
    model = MODELS.build(cfg)
    heads = (model.decode_head, model.auxiliary_head)
    assert all(head.num_classes == heads[0].num_classes for head in heads)
    assert len(model.backbone.out_indices) == len(model.decode_head.in_channels) == 4
    assert model.backbone.embed_dims == model.decode_head.in_channels[0]


@pytest.mark.parametrize('path', TWINS, ids=lambda path: path.stem)
def test_vit_twins_differ_from_kat_in_the_feed_forward_and_their_start(path):
    assert_twins(load(path.stem.replace('vit_', 'kat_')).to_dict(), load(path.stem).to_dict())


def test_every_vit_has_a_twin():
    names = {path.stem for path in CONFIGS}
    assert len(TWINS) >= 7
    assert {path.stem.replace('vit_', 'kat_') for path in TWINS} <= names


@pytest.mark.parametrize(
    'name',
    [
        'kat_t_upernet_ade20k',
        'vit_t_upernet_ade20k',
        'kat_t_upernet_camvid',
        'kat_t_upernet_sample',
    ],
)
def test_a_training_step_reaches_every_weight(name, one_thread):
    losses, model, gradients = train_step(name)
    assert losses['loss'].isfinite()
    assert {'decode.loss_ce', 'aux.loss_ce'} <= losses.keys()
    for (name, param), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all() and gradient.any(), name
        assert param.isfinite().all(), name


def test_the_recipe_is_that_of_the_paper():
    # KAT, section 5: AdamW, 1e-4, total batch 16, 160k iterations, 512x512.
    cfg = load('kat_s_upernet_ade20k')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', 1e-4)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 160_000
    assert cfg.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    assert cfg.model.decode_head.num_classes == 150


def test_pipelines_check_labels_against_the_classes_of_the_head():
    for path in CONFIGS:
        cfg = load(path.stem)
        for split in ('train', 'val', 'test'):
            pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
            (check,) = [transform for transform in pipeline if transform.type == 'CheckLabels']
            assert check.num_classes == cfg.model.decode_head.num_classes, path.stem
        assert cfg.train_dataloader.dataset.pipeline[0].type == 'SeedAugmentation'
        assert cfg.train_dataloader.sampler.type == 'SeededInfiniteSampler'


def test_schedules_end_with_the_training():
    for path in CONFIGS:
        cfg = load(path.stem)
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters, path.stem
        assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin, path.stem


def test_the_model_index_lists_every_config_but_the_demos():
    models = []
    for metafile in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        content = yaml.safe_load((ROOT / metafile).read_text())
        collections = {collection['Name'] for collection in content['Collections']}
        models += copy.deepcopy(content['Models'])
        assert {model['In Collection'] for model in content['Models']} <= collections
    listed = {model['Config']: model['Name'] for model in models}
    assert len(listed) == len(models)
    assert all((ROOT / path).is_file() and Path(path).stem == listed[path] for path in listed)
    configs = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    expected = {name for name in configs if not name.endswith('_sample')}
    assert set(listed.values()) == expected
