"""Each mistake ends in one message that says what is wrong, and leaves nothing behind."""

import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from tools_runner import ROOT, run_tool


@pytest.fixture
def fails(tmp_path):
    """Run a tool that must fail with a message, and look at what it left."""

    def check(tool, *args, message, leaves_log=False):
        (tmp_path / 'existing').mkdir()
        (tmp_path / 'existing' / 'notes.txt').touch()
        before = sorted(tmp_path.rglob('*'))
        if '--work-dir' not in args:
            args = (*args, '--work-dir', tmp_path / 'existing')
        result = run_tool(tool, *args)
        assert result.status == 1
        assert result.last_line.startswith('error: ')
        assert re.search(message, result.last_line), result.last_line
        assert 'Traceback' not in result.stderr
        after = sorted(tmp_path.rglob('*'))
        if leaves_log:  # of what came before the damaged file
            assert set(before) <= set(after)
            assert not [path for path in after if path.suffix == '.pth']
        else:
            assert after == before

    return check


def with_model(tiny_config, tmp_path, **model):
    """A config like tiny_config with other settings of the model."""
    path = tmp_path / 'other.py'
    path.write_text(f'_base_ = {str(tiny_config)!r}\nmodel = {model!r}\n')
    return path


@pytest.fixture
def data_copy(data_root, tmp_path):
    """A copy of the data set, to be damaged, and the options that choose it."""
    root = tmp_path / 'ADEChallengeData2016'
    shutil.copytree(data_root, root)
    splits = ('train', 'val', 'test')
    return root, [f'{split}_dataloader.dataset.data_root={root}' for split in splits]


# The config and the command line


def test_config_that_is_missing(fails, tmp_path):
    fails('train.py', tmp_path / 'kat.py', message='config .*/kat.py does not exist')


def test_config_with_a_syntax_error(fails, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(\n')
    fails('train.py', path, message='config .*/broken.py cannot be read')


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for machines without a GPU')
@pytest.mark.parametrize(
    'args, message',
    [
        (['--amp'], '--amp needs a GPU'),
        (['--launcher', 'slurm'], '--launcher slurm needs GPUs.*dist_train.sh'),
        (['--launcher', 'pytorch'], 'RANK is not set.*dist_train.sh'),
    ],
)
def test_what_needs_a_gpu_on_a_cpu(fails, tiny_config, args, message):
    fails('train.py', tiny_config, *args, message=message)


@pytest.mark.parametrize(
    'backbone, message',
    [
        (dict(arch='smal'), "arch='smal' is unknown.*'small'.*tiny, small, base, large"),
        (dict(drop_path=0.1), r'model\.backbone\.drop_path .*did you mean drop_path_rate'),
        (
            dict(ffn_cfg=dict(num_group=4)),
            r'model\.backbone\.ffn_cfg\.num_group .*did you mean num_groups',
        ),
        (dict(ffn_cfg=dict(act_init=('identity', 'swich'))), "'swich'.*swish"),
        (dict(ffn_cfg=dict(num_groups=7)), 'num_groups=7 does not divide the 32 channels'),
    ],
)
def test_backbone_that_cannot_be(fails, tiny_config, tmp_path, backbone, message):
    config = with_model(tiny_config, tmp_path, backbone=backbone)
    fails('train.py', config, message=message)


# The data


def test_data_folder_that_is_missing(tmp_path):
    # As a user starts it, from the shell.
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'train.py', ROOT / 'configs' / 'kat_s_upernet_ade20k.py'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    (line,) = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
    assert process.stderr.endswith(line + '\n')
    assert 'Traceback' not in process.stderr
    assert 'data/ade/ADEChallengeData2016/images/training does not exist' in line
    assert 'ADE20KDataset expects img_path of the train split' in line
    assert 'sceneparsing.csail.mit.edu' in line
    assert 'python tools/make_sample_data.py' in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('num_workers', [0, 2])
def test_image_that_does_not_decode(fails, tiny_config, data_copy, num_workers):
    root, options = data_copy
    (root / 'images/training/ADE_train_00000003.jpg').write_bytes(b'not an image')
    options = ['--cfg-options', *options, f'train_dataloader.num_workers={num_workers}']
    fails(
        'train.py',
        tiny_config,
        *options,
        message='cannot load the sample .*ADE_train_00000003.jpg.*Repair or replace',
        leaves_log=True,
    )


def test_image_that_does_not_decode_in_testing(fails, tiny_config, trained, data_copy):
    root, options = data_copy
    (root / 'images/validation/ADE_val_00000002.jpg').write_bytes(b'not an image')
    fails(
        'test.py',
        tiny_config,
        trained / 'iter_6.pth',
        '--cfg-options',
        *options,
        message='cannot load the sample .*ADE_val_00000002.jpg.*Repair or replace',
        leaves_log=True,
    )


@pytest.mark.parametrize('split, tool', [('training', 'train.py'), ('validation', 'test.py')])
def test_image_without_its_annotation(fails, tiny_config, trained, data_copy, split, tool):
    root, options = data_copy
    short = {'training': 'train', 'validation': 'val'}[split]
    (root / f'annotations/{split}/ADE_{short}_00000002.png').unlink()
    arguments = [trained / 'iter_6.pth'] if tool == 'test.py' else []
    fails(
        tool,
        tiny_config,
        *arguments,
        '--cfg-options',
        *options,
        message=f'1 of .* images in .*lack their annotation.*the first ADE_{short}_00000002.png',
    )


def test_labels_outside_of_the_classes(fails, tiny_config, data_copy):
    root, options = data_copy
    path = root / 'annotations/training/ADE_train_00000005.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[:4, :4] = 201
    cv2.imwrite(str(path), labels)
    fails(
        'train.py',
        tiny_config,
        '--cfg-options',
        *options,
        message=r'ADE_train_00000005.png: label values \[201\] are outside of the 12 classes',
        leaves_log=True,
    )


# Checkpoints


def test_checkpoint_that_is_missing(fails, tiny_config, tmp_path):
    fails(
        'test.py', tiny_config, tmp_path / 'no.pth', message='checkpoint .*/no.pth does not exist'
    )


@pytest.mark.parametrize('key', ['load_from', 'model.backbone.init_cfg.checkpoint'])
def test_pretrained_weights_that_are_missing(fails, tiny_config, tmp_path, key):
    options = ['--cfg-options', f'{key}={tmp_path}/no.pth']
    if 'init_cfg' in key:
        options.append('model.backbone.init_cfg.type=Pretrained')
    fails('train.py', tiny_config, *options, message='checkpoint .*/no.pth does not exist')


def truncated(trained, tmp_path):
    path = tmp_path / 'truncated.pth'
    path.write_bytes((trained / 'iter_6.pth').read_bytes()[:50_000])
    return path


def test_truncated_checkpoint_to_test(fails, tiny_config, trained, tmp_path):
    path = truncated(trained, tmp_path)
    fails('test.py', tiny_config, path, message='truncated.pth cannot be read; it is truncated')


@pytest.mark.parametrize('use', ['load_from', 'Pretrained', '--resume'])
def test_truncated_checkpoint_to_train_from(fails, tiny_config, trained, tmp_path, use):
    path = truncated(trained, tmp_path)
    options = {
        'load_from': ['--cfg-options', f'load_from={path}'],
        'Pretrained': [
            '--cfg-options',
            'model.backbone.init_cfg.type=Pretrained',
            f'model.backbone.init_cfg.checkpoint={path}',
        ],
        '--resume': ['--resume', path],
    }[use]
    fails(
        'train.py', tiny_config, *options, message='truncated.pth cannot be read; it is truncated'
    )


@pytest.mark.parametrize('use', ['test', 'load_from', 'Pretrained', '--resume'])
def test_checkpoint_of_other_shapes(fails, tiny_config, trained, tmp_path, use):
    path = trained / 'iter_6.pth'
    backbone = dict(arch=dict(feedforward_channels=96))
    if use == 'Pretrained':
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(path))
    config = with_model(tiny_config, tmp_path, backbone=backbone)
    tool, *options = {
        'test': ['test.py', path],
        'load_from': ['train.py', '--cfg-options', f'load_from={path}'],
        'Pretrained': ['train.py'],
        '--resume': ['train.py', '--resume', path],
    }[use]
    fails(tool, config, *options, message=r'iter_6.pth .*\[64, 32\].*\[96, 32\]')


class Command:
    """A pickle of it runs a command of the shell when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


EVIL = {
    'test': ['test.py', 'evil.pth'],
    'load_from': ['train.py', '--cfg-options', 'load_from=evil.pth'],
    '--resume': ['train.py', '--resume', 'evil.pth'],
    **{
        part or 'model': [
            'train.py',
            '--cfg-options',
            f'model.{part}init_cfg.type=Pretrained',
            f'model.{part}init_cfg.checkpoint=evil.pth',
        ]
        for part in ('', 'backbone.', 'decode_head.')
    },
}


@pytest.mark.parametrize('use', EVIL)
def test_checkpoint_that_holds_code(fails, tiny_config, trained, tmp_path, use):
    path, ran = tmp_path / 'evil.pth', tmp_path / 'ran'
    content = torch.load(trained / 'iter_6.pth', weights_only=False)
    torch.save({**content, 'code': Command(f'touch {ran}')}, path)
    tool, *options = (option.replace('evil.pth', str(path)) for option in EVIL[use])
    message = 'evil.pth holds more than tensors.* would run code: it wants posix.system'
    fails(tool, tiny_config, *options, message=message)
    assert not ran.exists()


def test_a_run_goes_on_without_running_the_config_in_its_checkpoint(tiny_config, trained, tmp_path):
    path, ran = tmp_path / 'iter_6.pth', tmp_path / 'ran'
    content = torch.load(trained / 'iter_6.pth', weights_only=False)
    content['meta']['config'] = f'import os\nos.system("touch {ran}")\n'
    torch.save(content, path)
    options = '--work-dir', tmp_path / 'work', '--cfg-options', 'train_cfg.max_iters=7'
    result = run_tool('train.py', tiny_config, '--resume', path, *options)
    assert result.status == 0, result.stderr
    assert not ran.exists()


def test_heads_of_other_classes(fails, tiny_config, trained, tmp_path):
    config = with_model(tiny_config, tmp_path, decode_head=dict(num_classes=7))
    message = 'model.decode_head.num_classes=7, but the test data set has 12 classes: sky, build'
    fails('test.py', config, trained / 'iter_6.pth', message=message)


def test_heads_of_other_widths(fails, tiny_config, trained, tmp_path):
    config = with_model(tiny_config, tmp_path, decode_head=dict(channels=64))
    message = r'decode_head.* \[.*in the checkpoint, \[.*in the model'
    fails('test.py', config, trained / 'iter_6.pth', message=message)


def test_weights_alone_to_resume_from(fails, tiny_config, trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(torch.load(trained / 'iter_6.pth', weights_only=False)['state_dict'], path)
    message = 'weights.pth has no message_hub, meta, optimizer.*--cfg-options load_from=.*weights'
    fails('train.py', tiny_config, '--resume', path, message=message)


def test_weights_that_are_not_finite(fails, tiny_config, trained, tmp_path):
    content = torch.load(trained / 'iter_6.pth', weights_only=False)
    content['state_dict']['backbone.patch_embed.proj.weight'][0, 0, 0, 0] = float('nan')
    path = tmp_path / 'broken.pth'
    torch.save(content, path)
    message = 'broken.pth has weights that are NaN .*, in 1 of .*patch_embed.proj.weight'
    fails('test.py', tiny_config, path, message=message)


def test_a_work_folder_of_another_run(fails, tiny_config, trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'other')
    message = 'the work folder .*other holds iter_6.pth of another run.*--resume.*--work-dir'
    fails('train.py', tiny_config, '--work-dir', tmp_path / 'other', message=message)


# The work folder


def test_work_folder_that_cannot_be_written(fails, tiny_config, tmp_path):
    (tmp_path / 'file').touch()
    fails(
        'train.py',
        tiny_config,
        '--work-dir',
        tmp_path / 'file' / 'work',
        message='cannot write to the work folder .*file/work.*--work-dir',
    )


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip('may not mount a small disk')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def test_full_disk(fails, tiny_config, small_disk):
    (small_disk / 'full').write_bytes(bytes(3 << 19))
    fails('train.py', tiny_config, '--work-dir', small_disk / 'work', message='work.*disk is full')


def test_disk_with_less_room_than_a_checkpoint_takes(fails, tiny_config, small_disk):
    (small_disk / 'much').write_bytes(np.zeros(900_000, np.uint8).tobytes())
    fails(
        'train.py',
        tiny_config,
        '--work-dir',
        small_disk / 'work',
        message='has 1 MB free, and one checkpoint takes about 2 MB',
    )


# What the checks find, in the tools


@pytest.mark.parametrize(
    'option, message',
    [
        ('train_cfg.max_iters=0', 'train_cfg.max_iters=0 must be a whole number from 1'),
        ('default_hooks.checkpoint.save_best=miou', "save_best='miou' is none .*did you mean mIoU"),
        ('default_hooks.logger.interval=0', 'interval=0 must be a whole number from 1, or -1'),
        ('modle.backbone.with_cp=True', 'the config has modle.*did you mean model'),
        ('model.decode_head.num_classes=19', 'num_classes=19, but the train data set has 12 class'),
        (
            'model.auxiliary_head.in_channels=48',
            r'do not fit: model.auxiliary_head\S* gets another',
        ),
        ('train_dataloader.sampler.shufle=False', 'sampler.shufle .*did you mean shuffle'),
    ],
)
def test_settings_that_cannot_be(fails, tiny_config, option, message):
    fails('train.py', tiny_config, '--cfg-options', option, message=message)


def test_every_damaged_file_is_reported(fails, tiny_config, data_copy):
    root, options = data_copy
    names = [
        'images/training/ADE_train_00000003.jpg',
        'annotations/validation/ADE_val_00000002.png',
    ]
    for name in names:
        (root / name).write_bytes(b'')
    result = run_tool('check_data.py', tiny_config, '--cfg-options', *options)
    assert result.status == 1
    assert result.last_line == 'error: 2 problems, named above'
    assert all(f'{name} is empty (0 bytes)' in result.stdout for name in names)
    assert 'train: ADE20KDataset of 12 samples, 1 damaged' in result.stdout


def test_sound_data_have_no_damage(tiny_config):
    result = run_tool('check_data.py', tiny_config, '--num-workers', 0)
    assert result.status == 0, result.stderr
    assert 'val: ADE20KDataset of 5 samples, 0 damaged' in result.stdout
