"""The ImageNet recipe on a folder laid out as ImageNet: train, test, resume, processes, chain."""

import json
import pickle
import re
import shutil
import signal

import cv2
import pytest
import timm
import torch
from tiny_detector import TINY as TINY_DETECTOR
from tools_runner import ROOT, read_losses, read_scalars, run_script, run_tool

from kat_mm.sample_data import SampleSettings, make_sample_data

# kat_t_in1k.py itself, with its augmentation, mixup and averaged weights; only sizes are smaller.
TINY = """
_base_ = {base!r}
classes = tuple(f'class {{i}}' for i in range(10))
model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
        ),
        img_size=32,
        patch_size=8,
    ),
    head=dict(in_channels=32, num_classes=10),
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
sizes = dict(
    RandomResizedCrop=dict(scale=32), ResizeEdge=dict(scale=36), CenterCrop=dict(crop_size=32)
)
choices = [step for step in train_pipeline if step['type'] == 'RandomChoice']
crops = [crop for choice in choices for (crop,) in choice['transforms']]
[
    transform.update(sizes.get(transform['type'], dict()))
    for transform in train_pipeline + test_pipeline + crops
]
data = dict(data_root={data_root!r}, metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, **data),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=test_pipeline, **data),
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_best=None))
"""
STOPPABLE = """
_base_ = {base!r}
custom_imports = dict(imports=['kat_mm', 'stop_hook'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='StopHook')]
"""


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['imagenet'], folder, SampleSettings(12, 10, 64, 48))
    return folder / 'imagenet'


@pytest.fixture(scope='module')
def config(tmp_path_factory, images):
    path = tmp_path_factory.mktemp('config') / 'tiny_in1k.py'
    base = str(ROOT / 'configs' / 'kat_t_in1k.py')
    path.write_text(TINY.format(base=base, data_root=str(images)))
    return path


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
    """Work folder of 2 epochs of 3 iterations."""
    work_dir = tmp_path_factory.mktemp('trained')
    result = run_tool('train.py', config, '--work-dir', work_dir)
    assert result.status == 0, result.stderr
    return work_dir


def options(**changes):
    return ['--cfg-options', *(f'{key}={value}' for key, value in changes.items())]


def test_training_validates_and_writes_the_average(trained):
    assert list(read_losses(trained)) == [1, 2, 3, 4, 5, 6]
    assert [line for line in read_scalars(trained) if 'accuracy/top5' in line]
    content = torch.load(trained / 'epoch_2.pth', weights_only=False)
    average, last = content['state_dict'], content['ema_state_dict']
    name = 'backbone.blocks.0.mlp.act2.weight_numerator'
    assert not torch.equal(average[name], last[f'module.{name}'])


def test_testing_gives_top1_and_top5_as_json(config, trained, tmp_path):
    checkpoint = trained / 'epoch_2.pth'
    result = run_tool('test.py', config, checkpoint, '--work-dir', tmp_path)
    assert result.status == 0, result.stderr
    (file,) = tmp_path.glob('*/*.json')
    saved = json.loads(file.read_text())
    expected = [line for line in read_scalars(trained) if 'accuracy/top1' in line][-1]
    for name in ('accuracy/top1', 'accuracy/top5'):
        assert 0 <= saved[name] <= 100
        assert saved[name] == expected[name]
        assert re.search(rf'{name}: [\d.]+', result.stdout)


def test_testing_writes_predictions_and_pictures_and_averages_mirror_images(
    config, trained, tmp_path
):
    checkpoint, scores = next(trained.glob('epoch_2.pth')), []
    for number, options in enumerate(([], ['--tta'])):
        out, show = tmp_path / f'{number}.pkl', tmp_path / f'show{number}'
        options = [*options, '--out', out, '--show-dir', show, '--work-dir', tmp_path / 'work']
        result = run_tool('test.py', config, checkpoint, *options)
        assert result.status == 0, result.stderr
        samples = pickle.loads(out.read_bytes())
        assert len(samples) == 10
        # As many pictures, each an image with its scores and the truth below.
        assert len(list(show.iterdir())) == 10
        for path in show.iterdir():
            assert cv2.imread(str(path)).shape[0] > 48
        scores.append(torch.stack([sample['pred_score'] for sample in samples]))
        torch.testing.assert_close(scores[-1].sum(1), torch.ones(10))
    assert (scores[0] - scores[1]).abs().max() > 1e-5


def test_a_killed_run_resumes_to_the_losses_and_weights_of_one_never_stopped(
    config, trained, tmp_path
):
    stoppable = tmp_path / 'stoppable.py'
    stoppable.write_text(STOPPABLE.format(base=str(config)))
    killed = run_tool('train.py', stoppable, '--work-dir', tmp_path, STOP_AT='5')
    assert killed.status == -signal.SIGKILL and not (tmp_path / 'epoch_2.pth').exists()
    result = run_tool('train.py', stoppable, '--work-dir', tmp_path, '--resume')
    assert result.status == 0, result.stderr
    assert read_losses(tmp_path) == read_losses(trained)
    found, expected = (
        torch.load(folder / 'epoch_2.pth', weights_only=False) for folder in (tmp_path, trained)
    )
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in expected[part].items():
            assert torch.equal(found[part][key], value), key


def test_two_processes_train_as_one_with_twice_the_batch_size(config, tmp_path):
    # Mixup draws for the batch of a process, and drop path too.
    exact = options(**{'model.train_cfg': 'None', 'model.backbone.drop_path_rate': 0.0})
    alone = run_tool('train.py', config, '--work-dir', tmp_path / 'alone', *exact)
    assert alone.status == 0, alone.stderr
    half = [*exact, 'train_dataloader.batch_size=2']
    together = run_script('dist_train.sh', config, 2, '--work-dir', tmp_path / 'together', *half)
    assert together.returncode == 0, together.stderr
    expected, found = read_losses(tmp_path / 'alone'), read_losses(tmp_path / 'together')
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)


def test_auto_scale_lr_scales_with_the_batch(config, tmp_path):
    result = run_tool('train.py', config, '--work-dir', tmp_path, '--auto-scale-lr')
    assert result.status == 0, result.stderr
    rates = [line['lr'] for line in read_scalars(tmp_path) if 'lr' in line]
    # Epochs of 3 iterations; five warm up from a hundredth of 1e-3 * 4 / 1024.
    top = 1e-3 * 4 / 1024
    expected = [0.01 * top] * 3 + [(0.01 + 0.99 / 5) * top] * 3
    assert rates == pytest.approx(expected, rel=1e-3)


# Other projects' checkpoints


def test_load_from_takes_a_vit_of_timm_with_its_head(config, tmp_path):
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, mlp_ratio=2, num_classes=10
    )
    torch.save({'model': vit.state_dict()}, tmp_path / 'vit.pth')
    # Learning rate 0: what is saved is what was loaded.
    still = {'load_from': tmp_path / 'vit.pth', 'optim_wrapper.optimizer.lr': 0}
    result = run_tool(
        'train.py',
        config,
        '--work-dir',
        tmp_path / 'work',
        *options(**still, **{'train_cfg.max_epochs': 1}),
    )
    assert result.status == 0, result.stderr
    state = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    for key, value in vit.state_dict().items():
        own = f'head.layers.{key}' if key.startswith('head') else f'backbone.{key}'
        assert torch.equal(state[own], value), key


@pytest.fixture(scope='module')
def pretrained(trained):
    return trained / 'epoch_2.pth'


def test_a_pretrained_classifier_starts_a_segmentor(tiny_config, pretrained, tmp_path):
    change = {
        'model.backbone.patch_size': 8,
        'model.backbone.init_cfg.type': 'Pretrained',
        'model.backbone.init_cfg.checkpoint': pretrained,
        'train_cfg.max_iters': 1,
        'optim_wrapper.optimizer.lr': 0,
    }
    result = run_tool('train.py', tiny_config, '--work-dir', tmp_path, *options(**change))
    assert result.status == 0, result.stderr
    (log,) = tmp_path.glob('*/*.log')
    assert re.search(r'Loaded (\d+) of \1 tensors', log.read_text())
    source = torch.load(pretrained, weights_only=False)['state_dict']
    target = torch.load(tmp_path / 'iter_1.pth', weights_only=False)['state_dict']
    names = [key for key in source if key.startswith('backbone.')]
    assert set(names) == {key for key in target if key.startswith('backbone.')}
    for key in names:
        if key == 'backbone.pos_embed':  # 4 x 4 to 8 x 8 patches
            assert target[key].shape[1] == 65
        else:
            assert torch.equal(target[key], source[key]), key


def test_a_pretrained_classifier_starts_a_detector(pretrained, tmp_path):
    make_sample_data(['coco'], tmp_path, SampleSettings(4, 2, 96, 64))
    config, work_dir = tmp_path / 'detector.py', tmp_path / 'work'
    base = str(ROOT / 'configs' / 'kat_t_mask_rcnn_sample.py')
    config.write_text(TINY_DETECTOR.format(base=base, data_root=str(tmp_path / 'coco')))
    change = {
        'model.backbone.init_cfg.type': 'Pretrained',
        'model.backbone.init_cfg.checkpoint': pretrained,
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 2,
        'optim_wrapper.optimizer.lr': 0,
        'default_hooks.checkpoint.interval': 1,
    }
    result = run_tool('train.py', config, '--work-dir', work_dir, *options(**change))
    assert result.status == 0, result.stderr
    (log,) = work_dir.glob('*/*.log')
    log = log.read_text()
    source = torch.load(pretrained, weights_only=False)['state_dict']
    target = torch.load(work_dir / 'iter_1.pth', weights_only=False)['state_dict']
    names = {key for key in source if key.startswith('backbone.')}
    own = {key for key in target if key.startswith('backbone.')}
    left_out = {f'backbone.{name}' for name in ('cls_token', 'norm.weight', 'norm.bias')}
    assert names - own == left_out
    assert all('rel_pos' in key and not target[key].any() for key in own - names)
    for key in names & own - {'backbone.pos_embed'}:
        assert torch.equal(target[key], source[key]), key
    assert target['backbone.pos_embed'].shape != source['backbone.pos_embed'].shape
    for words in ('class token', 'final norm', 'rel_pos', 'pos_embed'):
        assert words in log


# Bad input


@pytest.fixture
def fails(config, images, tmp_path):
    """Damage a copy of the data set; the run must then fail before it makes anything."""

    def check(damage, message, **changes):
        root = tmp_path / 'imagenet'
        shutil.copytree(images, root)
        damage(root)
        changes |= {
            f'{split}_dataloader.dataset.data_root': root for split in ('train', 'val', 'test')
        }
        result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', *options(**changes))
        assert result.status == 1
        assert re.search(message, result.last_line), result.last_line
        assert 'Traceback' not in result.stderr
        assert not (tmp_path / 'work').exists()

    return check


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def test_a_class_without_images(fails):
    fails(
        lambda root: empty(root / 'train' / 'n02793495'),
        message='1 of 10 class folders in .*/train hold no images .*: n02793495; ',
    )


def test_a_folder_that_is_no_class(fails):
    def damage(root):
        shutil.copytree(root / 'train' / 'n02793495', root / 'train' / 'cache')

    fails(damage, message='other class folders, .* train alone has cache, val alone none')


def test_a_hidden_folder(fails):
    fails(
        lambda root: (root / 'train' / '.ipynb_checkpoints').mkdir(),
        message='/train has hidden folders, .*: .ipynb_checkpoints; remove them',
    )


def test_a_head_of_other_classes(fails):
    fails(
        lambda root: None,
        message='model.head.num_classes=9, but the train data set has 10 classes: .* set it to 10',
        **{'model.head.num_classes': 9},
    )


def test_a_broken_image(config, images, tmp_path):
    root = tmp_path / 'imagenet'
    shutil.copytree(images, root)
    image = next((root / 'train' / 'n02793495').iterdir())
    image.write_bytes(b'not an image')
    change = options(**{'train_dataloader.dataset.data_root': root})
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', *change)
    assert result.status == 1
    assert re.search(f'cannot load the sample .*{image.name}.*Repair or replace', result.last_line)


# Pictures of what is learned


def test_the_hook_draws_into_the_visualizer_during_training(config, tmp_path):
    drawing = tmp_path / 'drawing.py'
    drawing.write_text(
        f'_base_ = {str(config)!r}\n'
        "custom_hooks = [*_base_.custom_hooks, dict(type='PlotRationalsHook', interval=2)]\n"
        'train_cfg = dict(max_epochs=1)\n'
    )
    result = run_tool('train.py', drawing, '--work-dir', tmp_path / 'work')
    assert result.status == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / 'work').glob('*/vis_data/vis_image/*'))
    assert names == ['rationals_0.png', 'rationals_2.png']


def test_the_tool_draws_with_the_histograms_of_the_test_images(config, pretrained, tmp_path):
    out = tmp_path / 'functions.png'
    result = run_tool('plot_rationals.py', pretrained, '--config', config, '--out', out)
    assert result.status == 0, result.stderr
    assert out.is_file()
    assert re.search(r'backbone.blocks.3.mlp.act2: -[\d.]+ to [\d.]+, 99.8 % in', result.stdout)
