from pathlib import Path

import pytest
import timm.data.auto_augment as timm_augment
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, init_default_scope
from mmpretrain.structures import DataSample
from timm.scheduler import CosineLRScheduler
from twins import assert_twins

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.stem
    for pattern in ('*_in1k*.py', '*_cifar10.py')
    for path in (ROOT / 'configs').glob(pattern)
)
# KArAt's configs, and the one with softmax that they are compared with, have
# tests/test_karat_configs.py.
TWINS = [
    name
    for name in CONFIGS
    if name.startswith('vit_') and '_karat_' not in name and '_softmax_' not in name
]
# As published, with a head of 1000 classes.
PARAMETERS = {
    'kat_t_in1k': 5_718_328,
    'kat_s_in1k': 22_051_576,
    'kat_b_in1k': 86_568_568,
    'vit_t_in1k': 5_717_416,
    'vit_s_in1k': 22_050_664,
    'vit_b_in1k': 86_567_656,
}


def load(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('name', CONFIGS)
def test_parts_of_a_config_agree(name):
    cfg = load(name)
    model = MODELS.build(cfg.model)
    assert model.backbone.embed_dims == cfg.model.head.in_channels
    classes = cfg.model.head.num_classes
    assert cfg.model.data_preprocessor.num_classes == classes
    for split in ('train', 'val', 'test'):
        names = cfg[f'{split}_dataloader'].dataset.get('metainfo', {}).get('classes')
        assert names is None or len(names) == classes
    *warm_ups, cosine = cfg.param_scheduler
    # A linear probe has none.
    assert [one.type for one in warm_ups] == ['LinearLR'] * ('_linear_' not in name)
    assert cosine.end == cfg.train_cfg.max_epochs
    assert cfg.train_dataloader.dataset.pipeline[0].type == 'SeedAugmentation'
    assert cfg.train_dataloader.sampler.type == 'SeededSampler'
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == PARAMETERS.get(name.replace('_from_vit', ''), parameters)


@pytest.mark.parametrize('name', TWINS)
def test_vit_twins_differ_in_the_feed_forward_alone(name):
    assert_twins(load(name.replace('vit_', 'kat_')).to_dict(), load(name).to_dict())


@pytest.mark.parametrize('size, drop_path', [('t', 0.1), ('s', 0.1), ('b', 0.4)])
def test_the_recipe_is_the_published_one(size, drop_path):
    # That of the authors' training scripts.
    cfg = load(f'kat_{size}_in1k')
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
    assert cfg.train_cfg.max_epochs == 300
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    mixup, cutmix = cfg.model.train_cfg.augments
    assert (mixup.type, mixup.alpha, cutmix.type, cutmix.alpha) == ('Mixup', 0.8, 'CutMix', 1.0)
    assert cfg.model.head.loss.label_smooth_val == 0.1
    (average,) = [hook for hook in cfg.custom_hooks if hook.type == 'EMAHook']
    assert 1 - average.momentum == 0.9999
    train = {transform.type: transform for transform in cfg.train_pipeline}
    assert (train['RandomErasing'].erase_prob, train['RandomErasing'].mode) == (0.25, 'rand')
    crops = [crop for (crop,) in train['RandomChoice'].transforms]
    assert [crop.interpolation for crop in crops] == ['bilinear', 'bicubic']
    test = {transform.type: transform for transform in cfg.test_pipeline}
    assert test['CenterCrop'].crop_size / test['ResizeEdge'].scale == 0.875
    assert (test['ResizeEdge'].interpolation, test['ResizeEdge'].backend) == ('bicubic', 'pillow')


def test_learning_rates_are_those_of_the_published_scripts():
    # train.py of the authors leaves timm's options at: cosine to 0 over all epochs, of which five
    # warm up from 1e-5.
    weights = [torch.nn.Parameter(torch.zeros(1))]
    timm_optimizer, ours = (torch.optim.AdamW(weights, lr=1e-3) for _ in range(2))
    timm_scheduler = CosineLRScheduler(
        timm_optimizer, t_initial=300, lr_min=0, warmup_t=5, warmup_lr_init=1e-5
    )
    schedulers = [
        PARAM_SCHEDULERS.build(dict(settings, optimizer=ours))
        for settings in load('kat_s_in1k').param_scheduler
    ]
    for epoch in range(300):
        timm_scheduler.step(epoch)
        expected = timm_optimizer.param_groups[0]['lr']
        # Ours has the cosine within the warm-up too.
        tolerance = 1e-3 if epoch < 5 else 1e-9
        assert ours.param_groups[0]['lr'] == pytest.approx(expected, rel=tolerance), epoch
        ours.step()
        [scheduler.step() for scheduler in schedulers]


def test_weight_decay_is_that_of_the_published_scripts():
    # timm decays all that has two dimensions and more but the tokens: rational coefficients too.
    cfg = load('kat_t_in1k')
    model = torch.nn.Module()
    model.backbone = MODELS.build(cfg.model.backbone)
    cfg.optim_wrapper.update(type='OptimWrapper')  # that of half precision wants a GPU
    del cfg.optim_wrapper.loss_scale
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decayed = {id(p) for g in optimizer.param_groups if g['weight_decay'] for p in g['params']}
    for name, parameter in model.backbone.named_parameters():
        expected = parameter.dim() > 1 and name not in ('cls_token', 'pos_embed')
        assert (id(parameter) in decayed) == expected, name


# Names of timm to those of mmpretrain, and what of mmpretrain's magnitude is timm's argument.
POLICIES = {
    'AutoContrast': ('AutoContrast', None),
    'Equalize': ('Equalize', None),
    'Invert': ('Invert', None),
    'Rotate': ('Rotate', abs),
    'Posterize': ('Posterize', lambda bits: -(-bits // 1)),
    'Solarize': ('Solarize', lambda threshold: threshold // 1),
    'SolarizeAdd': ('SolarizeAdd', lambda value: value // 1),
    'Color': ('ColorTransform', lambda magnitude: 1 + magnitude),
    'Contrast': ('Contrast', lambda magnitude: 1 + magnitude),
    'Brightness': ('Brightness', lambda magnitude: 1 + magnitude),
    'Sharpness': ('Sharpness', lambda magnitude: 1 + magnitude),
    'ShearX': ('Shear', abs),
    'ShearY': ('Shear', abs),
    'TranslateXRel': ('Translate', abs),
    'TranslateYRel': ('Translate', abs),
}


@pytest.mark.parametrize('level', [0.3, 5.2, 8.6, 9.0, 9.4, 10.0])
def test_rand_augment_is_timms(level):
    # rand-m9-mstd0.5
    cfg = load('kat_s_in1k')
    augment = TRANSFORMS.build(cfg.rand_augment)
    assert (augment.num_policies, augment.magnitude_level, augment.magnitude_std) == (2, 9, 0.5)
    # Twice, so that those that move pixels are drawn with the interpolations that timm draws.
    names = 2 * timm_augment._RAND_TRANSFORMS
    kinds = [
        kind.name.lower()
        for kind in timm_augment._RANDOM_INTERPOLATION
        for _ in timm_augment._RAND_TRANSFORMS
    ]
    for name, kind, transform in zip(names, kinds, augment.transforms, strict=True):
        expected_type, convert = POLICIES[name]
        assert type(transform).__name__ == expected_type
        assert transform.prob == 0.5  # timm's, too
        assert getattr(transform, 'interpolation', kind) == kind
        level_to_argument = timm_augment.LEVEL_TO_ARG[name]
        assert (convert is None) == (level_to_argument is None)
        if convert is not None:
            transform.magnitude_level, transform.magnitude_std = level, 0
            expected = abs(level_to_argument(level, {})[0])
            assert convert(transform.random_magnitude()) == pytest.approx(expected), name


@pytest.mark.parametrize('name', ['kat_t_cifar10', 'vit_t_cifar10'])
def test_a_training_step_reaches_every_weight(name):
    cfg = load(name)
    torch.manual_seed(0)
    cfg.model.backbone.drop_path_rate = 0.0  # which may leave out a block
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    samples = [DataSample().set_gt_label(label) for label in (3, 7)]
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    for (key, _), gradient in zip(
        model.named_parameters(),
        torch.autograd.grad(loss, list(model.parameters())),
        strict=True,
    ):
        assert gradient.isfinite().all() and gradient.any(), key


def test_weight_decay_spares_what_it_should_in_a_classifier():
    cfg = load('kat_t_cifar10')
    model = MODELS.build(cfg.model)
    settings = {key: cfg.optim_wrapper[key] for key in ('constructor', 'optimizer')}
    wrapper = build_optim_wrapper(model, dict(settings, type='OptimWrapper'))
    decay = {
        id(parameter): group['weight_decay']
        for group in wrapper.param_groups
        for parameter in group['params']
    }
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not any(
            part in name for part in ('act1', 'act2', 'cls_token', 'pos_embed')
        )
        assert decay[id(parameter)] == (0.05 if matrix else 0), name
