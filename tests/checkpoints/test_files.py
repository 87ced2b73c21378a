"""Files of checkpoints: what is read from them, and which are refused."""

import argparse
import builtins
import functools
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import nn

from kat_mm.checkpoints import find_state_dict, read_checkpoint, trust
from kat_mm.errors import UserError


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """A state dict."""
    generator = torch.Generator().manual_seed(0)
    shapes = {'cls_token': (1, 1, 16), 'norm.weight': (16,), 'norm.bias': (16,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def weights_only(path):
    return torch.load(path, weights_only=True)


def test_weights_are_read_from_safetensors(trained, tmp_path):
    save_file(trained, tmp_path / 'weights.safetensors')
    content = read_checkpoint(tmp_path / 'weights.safetensors')
    assert content.keys() == trained.keys()
    assert all(torch.equal(content[key], trained[key]) for key in trained)


def test_weights_are_preferred_over_their_average():
    content = {'state_dict_ema': {'a': torch.zeros(1)}, 'state_dict': {'a': torch.ones(1)}}
    assert find_state_dict(content) == {'a': torch.ones(1)}


def test_arguments_that_training_scripts_save_do_not_hinder(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'state_dict': trained, 'args': argparse.Namespace(lr=0.1)}, path)
    assert find_state_dict(read_checkpoint(path)).keys() == trained.keys()


# Files that cannot be used


class Bomb:
    """A pickle of it calls a function when it is read."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def write_truncated(path, share, **kwargs):
    torch.save({'norm.weight': torch.ones(5000)}, path, **kwargs)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


BROKEN = {
    'missing': (lambda path: None, 'does not exist'),
    'a folder': (lambda path: path.mkdir(), 'is a folder; give the path'),
    'empty': (lambda path: path.touch(), 'is an empty file, no checkpoint'),
    'truncated': (lambda path: write_truncated(path, 0.5), 'truncated'),
    'truncated in the old format': (
        lambda path: write_truncated(path, 0.5, _use_new_zipfile_serialization=False),
        'truncated',
    ),
    'a page': (
        lambda path: path.write_text('\n<html>404</html>'),
        'is an HTML page, no checkpoint',
    ),
    'text': (lambda path: path.write_text('version https://git-lfs'), "with b'version https"),
    'an image': (lambda path: path.write_bytes(b'\x89PNG\r\n'), 'is an image, no checkpoint'),
    'noise': (lambda path: path.write_bytes(bytes(range(147, 247))), 'of an unknown format, no'),
    'arrays': (
        lambda path: path.write_bytes(pickle.dumps({'model': {'a': np.ones(3)}})),
        'a pickle that torch.save did not write',
    ),
    'TorchScript': (
        lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path),
        'TorchScript archives passed to ``torch.load``.)',
    ),
    'a tensor': (lambda path: torch.save(torch.ones(3), path), 'holds a Tensor'),
    'an object': (lambda path: torch.save({'model': nn.Linear(2, 2)}, path), 'run code'),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_file_that_cannot_be_read_is_refused_by_name_with_the_reason(kind, tmp_path):
    path = tmp_path / 'weights.pth'
    write, reason = BROKEN[kind]
    write(path)
    with pytest.raises(UserError) as raised:
        read_checkpoint(path)
    message = str(raised.value)
    assert str(path) in message and reason in message
    assert len(message.splitlines()) == 1
    # Only where it helps.
    assert ('--allow-pickle' in message) == (kind == 'an object')


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.aoti.pt2'])
def test_exported_models_are_no_checkpoints_and_it_is_said_what_runs_them(suffix, tmp_path):
    path = tmp_path / f'model{suffix}'
    path.write_bytes(b'PK\x03\x04')
    with pytest.raises(UserError, match='is an exported model.*run in tools/test.py'):
        read_checkpoint(path)


def test_formats_are_known_by_how_files_begin(trained, tmp_path):
    torch.save(trained, tmp_path / 'weights.safetensors')
    save_file(trained, tmp_path / 'weights.pth')
    for path in tmp_path.iterdir():
        content = read_checkpoint(path)
        assert all(torch.equal(content[key], trained[key]) for key in trained)


def test_classes_that_are_missing_are_named(tmp_path, monkeypatch):
    script = ModuleType('script')
    script.Settings = type('Settings', (), {'__module__': 'script'})
    with monkeypatch.context() as present:
        present.setitem(sys.modules, 'script', script)
        torch.save({'settings': script.Settings()}, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match="classes that are not here: No module named 'script'"):
        read_checkpoint(tmp_path / 'weights.pth', allow_pickle=True)


@pytest.mark.parametrize('content', [None, b'', b'\x10\0\0\0\0\0\0\0{"a": 1'])
def test_broken_safetensors_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / 'weights.safetensors'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value)


WRITERS = {
    'zip': (torch.save, 'would run code: it wants posix.system. If you trust'),
    'old': (
        functools.partial(torch.save, _use_new_zipfile_serialization=False),
        'would run code: it wants posix.system. If you trust',
    ),
    'plain pickle': (lambda x, path: path.write_bytes(pickle.dumps(x)), 'did not write'),
}


@pytest.mark.parametrize('kind', WRITERS)
def test_code_in_a_file_is_not_run(kind, tmp_path):
    path, target, control = tmp_path / 'weights.pth', tmp_path / 'ran', tmp_path / 'control'
    pickle.loads(pickle.dumps(Bomb(os.system, f'touch {control}')))
    assert control.exists()
    write, reason = WRITERS[kind]
    write({'norm.weight': torch.ones(16), 'bomb': Bomb(os.system, f'touch {target}')}, path)
    with pytest.raises(UserError, match=reason) as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value)
    assert not target.exists()


@pytest.mark.parametrize(
    'function, name', [(builtins.eval, 'builtins.eval'), (subprocess.Popen, 'subprocess.Popen')]
)
def test_code_in_a_file_is_named_as_users_know_it(function, name, tmp_path):
    torch.save({'bomb': Bomb(function, 'true')}, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=f'it wants {name}. If you trust its source'):
        read_checkpoint(tmp_path / 'weights.pth')


class Attribute:
    """A pickle of it asks for an attribute of a class that may be read."""

    def __reduce__(self):
        return getattr, (np.ndarray, 'tofile')


def test_attributes_are_read_from_log_buffers_alone(tmp_path):
    torch.save({'state_dict': {}, 'attribute': Attribute()}, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match='would run code'):
        read_checkpoint(tmp_path / 'weights.pth')


# Checkpoints of mmengine


@pytest.fixture
def safe_globals():
    """What torch trusts, put back as it was after the test."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 4)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())


@pytest.fixture(scope='module')
def runner_checkpoint(tmp_path_factory):
    """The checkpoint that an mmengine Runner writes after training for 2 iterations."""
    work_dir = tmp_path_factory.mktemp('runner')
    runner = Runner(
        Model(),
        str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            dataset=[torch.ones(3, 32, 32)] * 4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda batch: dict(inputs=batch),
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=dict(type='PolyLR', by_epoch=False, end=2),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
        ),
        experiment_name='test_files',
    )
    runner.train()
    return runner, work_dir / 'iter_2.pth'


def test_checkpoint_of_a_runner_is_read_with_its_logs(runner_checkpoint, safe_globals):
    runner, path = runner_checkpoint
    with pytest.raises(pickle.UnpicklingError):
        weights_only(path)  # else this test would prove nothing
    content = read_checkpoint(path)
    loss = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(loss, HistoryBuffer) and len(loss.data[0]) == 2
    assert loss.mean() == runner.message_hub.get_scalar('train/loss').mean()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(content['state_dict'][key], value), key


def test_reading_a_checkpoint_leaves_what_torch_trusts_as_it_was(runner_checkpoint, safe_globals):
    read_checkpoint(runner_checkpoint[1])
    assert torch.serialization.get_safe_globals() == []


def test_what_others_let_torch_read_does_not_stand_in_for_ours(safe_globals):
    # As mmengine has it around each file; a set's order decides between two of one name.
    theirs = [np.ndarray, np.dtype, getattr, np.empty(0).__reduce__()[0], OrderedDict]
    with torch.serialization.safe_globals(theirs):
        before = set(torch.serialization.get_safe_globals())
        with trust._known_globals():
            found = [trust._name_of_global(item) for item in torch.serialization.get_safe_globals()]
            assert len(found) == len(set(found))
            assert set(map(trust._name_of_global, theirs)) <= set(found)
            assert not {np.ndarray, getattr, theirs[3]} & set(
                torch.serialization.get_safe_globals()
            )
            assert OrderedDict in torch.serialization.get_safe_globals()
        assert set(torch.serialization.get_safe_globals()) == before
