"""OpenMMLab's own ways to load checkpoints, into models that hold a KAT and into others."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, load_from_http, load_from_local
from safetensors.torch import save_file
from tools_runner import ROOT
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.checkpoints import from_official
from kat_mm.errors import UserError
from kat_mm.weights import PUBLISHED, files
from kat_mm.weights.files import cache_path

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)


def official(**options) -> dict:
    """What the official code would save of a small KAT, with a head of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    state = {**KAT(**options).state_dict()}
    state.update({'head.weight': torch.empty(10, 32), 'head.bias': torch.empty(10)})
    return {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}


@pytest.fixture
def classifier_config() -> Config:
    cfg = Config.fromfile(ROOT / 'configs' / 'kat_t_in1k.py')
    cfg.model.backbone.update(arch=ARCH, img_size=32)
    cfg.model.head.update(num_classes=10, in_channels=32)
    cfg.model.data_preprocessor.num_classes = 10
    return cfg


def dense_config(name: str) -> Config:
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg.merge_from_dict(
        {
            'model.backbone.arch': dict(_delete_=True, **ARCH),
            'model.backbone.out_indices': (0, 1, 2, 3),
            'model.backbone.img_size': 32,
            'model.backbone.patch_size': 16,
            'model.neck.embed_dim': 32,
            'model.decode_head.in_channels': [32] * 4,
            'model.auxiliary_head.in_channels': 32,
        }
    )
    return cfg


def assert_holds(backbone: nn.Module, state: dict) -> None:
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('layout', ['kat', 'flashkat'])
@pytest.mark.parametrize('name', ['official.pth', 'official.safetensors'])
def test_get_model_loads_an_official_file_with_its_head(classifier_config, tmp_path, layout, name):
    from mmpretrain import get_model

    state = official(arch=ARCH, img_size=32)
    converted = from_official(state, layout)
    (save_file if name.endswith('safetensors') else torch.save)(converted, tmp_path / name)
    model = get_model(classifier_config, pretrained=str(tmp_path / name))
    assert_holds(model.backbone, state)
    assert torch.equal(model.head.layers.head.weight, state['head.weight'])
    assert torch.equal(model.head.layers.head.bias, state['head.bias'])


@pytest.fixture
def segmentor(tmp_path):
    """A config, and a checkpoint of its whole model without ``meta``, as our converter writes."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = dense_config('kat_t_upernet_sample')
    init_default_scope('mmseg')
    state = MODELS.build(cfg.model).state_dict()
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator))
    path = str(tmp_path / 'segmentor.safetensors')
    save_file(state, path)
    return cfg, path, state


def test_init_model_of_mmseg_loads_what_it_cannot_read_itself(segmentor):
    from mmseg.apis import init_model

    cfg, path, state = segmentor
    model = init_model(copy.deepcopy(cfg), path, device='cpu')
    assert_holds(model, state)


def test_the_inferencer_of_mmseg_loads_it_too(segmentor, tmp_path):
    from mmseg.apis import MMSegInferencer

    cfg, path, state = segmentor
    cfg.dump(tmp_path / 'config.py')
    inferencer = MMSegInferencer(str(tmp_path / 'config.py'), path, device='cpu')
    assert_holds(inferencer.model, state)


def test_init_detector_and_inferencer_of_mmdet_load_a_backbone(tmp_path):
    from mmdet.apis import DetInferencer, init_detector

    cfg = Config.fromfile(ROOT / 'configs' / 'kat_t_mask_rcnn_sample.py')
    cfg.model.backbone.update(arch=dict(cfg.model.backbone.arch, num_layers=12))
    options = dict(arch=dict(cfg.model.backbone.arch), img_size=96, patch_size=8)
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=generator)
        for key, value in KAT(**options).state_dict().items()
    }
    path = str(tmp_path / 'official.pth')
    torch.save(state, path)
    cfg.dump(tmp_path / 'config.py')
    detectors = [
        init_detector(copy.deepcopy(cfg), path, palette='random', device='cpu'),
        DetInferencer(str(tmp_path / 'config.py'), path, device='cpu', palette='random').model,
    ]
    for detector in detectors:
        for key, value in detector.backbone.blocks.state_dict().items():
            if 'rel_pos' in key:
                assert not value.any(), key
            else:
                assert torch.equal(value, state[f'blocks.{key}']), key


def test_published_models_are_known_by_name_to_mmpretrain(monkeypatch, tmp_path):
    from mmpretrain import get_model, list_models

    classifiers = {
        path.stem
        for path in (ROOT / 'configs').glob('*.py')
        if not path.stem.endswith('_sample') and Config.fromfile(path).default_scope == 'mmpretrain'
    }
    ours = ('kat_', 'vit_?_', 'dinov2_?_')
    assert {name for pattern in ours for name in list_models(pattern)} == classifiers
    published = [f'kat_{size}_in1k' for size in 'bst']
    assert list_models('kat_', task='Image Classification') == published
    # The address that the list has is got by this project's loader, and so is the name.
    monkeypatch.setenv('KAT_MM_WEIGHTS_DIR', str(tmp_path))
    monkeypatch.setattr(files, 'expected_sha256', lambda url: '')
    state = get_model('kat_t_in1k').state_dict()
    state = {key.removeprefix('backbone.').replace('head.layers.head.', 'head.'): value
             for key, value in state.items()}  # fmt: skip
    path = cache_path(PUBLISHED['kat_t_in1k'].url)
    path.parent.mkdir()
    torch.save(state, path)
    for source in (True, 'kat_t_in1k'):
        model = get_model('kat_t_in1k', pretrained=source)
        assert_holds(model.backbone, state)
        assert torch.equal(model.head.layers.head.weight, state['head.weight'])


def test_runners_of_mmengine_load_it_too(classifier_config, tmp_path):
    class Model(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = KAT(ARCH, img_size=32)

    state = official(arch=ARCH, img_size=32)
    torch.save(from_official(state, 'flashkat'), tmp_path / 'flashkat.pth')
    runner = Runner(Model(), str(tmp_path / 'work'), experiment_name='runner_of_mmengine')
    runner.load_checkpoint(str(tmp_path / 'flashkat.pth'))
    assert_holds(runner.model.backbone, state)


def test_a_file_of_another_arch_is_refused_by_what_it_is(classifier_config, tmp_path):
    from mmpretrain import get_model

    arch = dict(ARCH, num_layers=5)
    torch.save(official(arch=arch, img_size=32), tmp_path / 'deeper.pth')
    with pytest.raises(UserError, match='is a KAT of width 32 with 5 blocks.*has width 32 and 4'):
        get_model(classifier_config, pretrained=str(tmp_path / 'deeper.pth'))


def test_nothing_changes_for_models_without_a_kat(tmp_path):
    # Even where its keys are those that would be converted.
    state = {'blocks.0.mlp.act1.numerator_v': torch.ones(1, 6), 'backbone.weight': torch.ones(2, 3)}
    torch.save(state, tmp_path / 'a.pth')
    model = nn.Sequential()
    model.add_module('backbone', nn.Linear(3, 2, bias=False))
    assert load_checkpoint(model, str(tmp_path / 'a.pth')).keys() == state.keys()
    assert torch.equal(model.backbone.weight, torch.ones(2, 3))


@pytest.mark.parametrize(
    ('given', 'loader'),
    [
        ('a.pth', load_from_local),
        ('kat_s_in1k.pth', load_from_local),
        ('https://host/a.pth', load_from_http),
        (PUBLISHED['deit_s_in1k'].url, load_from_http),
    ],
)
def test_what_mmengine_can_read_is_read_by_it(given, loader):
    assert CheckpointLoader._get_checkpoint_loader(given) is loader
