import argparse
import builtins
import functools
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import nn

from kat_mm.backbones import KAT, load_pretrained
from kat_mm.checkpoints import find_state_dict, read_checkpoint, trust_mmengine_checkpoints
from kat_mm.errors import UserError
from kat_mm.layers import resize_pos_embed

SMALL = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


def small(**kwargs) -> KAT:
    return KAT(**{'arch': SMALL, 'img_size': 32, 'patch_size': 8, **kwargs})


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """What the official code would save of a small KAT, without head."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(value.shape, generator=generator)
        for key, value in small().state_dict().items()
    }


def head() -> dict[str, torch.Tensor]:
    return {'head.weight': torch.ones(1000, 16), 'head.bias': torch.ones(1000)}


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


def assert_holds(model: nn.Module, state: dict) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(own[key], value), key


def weights_only(path):
    return torch.load(path, weights_only=True)


# Layouts

LAYOUTS = {
    'plain': lambda s: s,
    'with the classification head': lambda s: {**s, **head()},
    'training checkpoint': lambda s: {'epoch': 3, 'arch': 'kat', 'state_dict': {**s, **head()}},
    'average alone': lambda s: {'state_dict_ema': OrderedDict(s)},
    'under model': lambda s: {'model': s, 'optimizer': {'state': {}}},
    'from distributed training': lambda s: {'state_dict': prefixed(s, 'module.')},
    'a segmentor of this project': lambda s: {
        'meta': {'epoch': 1},
        'state_dict': {**prefixed(s, 'backbone.'), 'decode_head.conv_seg.bias': torch.ones(3)},
    },
    'a distributed segmentor': lambda s: prefixed(s, 'module.backbone.'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_weights_are_found_in_each_layout(layout, trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(LAYOUTS[layout](trained), path)
    model = small()
    load_pretrained(model, path)
    assert_holds(model, trained)


def test_weights_are_read_from_safetensors(trained, tmp_path):
    save_file({**trained, **head()}, tmp_path / 'weights.safetensors')
    model = small()
    load_pretrained(model, tmp_path / 'weights.safetensors')
    assert_holds(model, trained)


def test_a_url_is_downloaded_once_and_kept(trained, tmp_path, monkeypatch):
    (tmp_path / 'web').mkdir()
    save_file(trained, tmp_path / 'web' / 'kat.safetensors')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'kept'))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / 'web')
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        first = read_checkpoint(f'{address}/kat.safetensors?download=true')
        with pytest.raises(UserError, match='nothing.pth cannot be read.*404'):
            read_checkpoint(f'{address}/nothing.pth')
        server.shutdown()
    again = read_checkpoint(f'{address}/kat.safetensors')
    assert all(torch.equal(first[key], again[key]) for key in trained)


def test_weights_are_preferred_over_their_average():
    content = {'state_dict_ema': {'a': torch.zeros(1)}, 'state_dict': {'a': torch.ones(1)}}
    assert find_state_dict(content) == {'a': torch.ones(1)}


def test_init_weights_loads_what_init_cfg_names(trained, tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save(trained, path)
    model = small(init_cfg=dict(type='Pretrained', checkpoint=path))
    model.init_weights()
    assert_holds(model, trained)


def test_checkpoint_is_the_last_word_among_several_init_cfgs(trained, tmp_path):
    del trained['blocks.1.mlp.fc2.bias']
    path = str(tmp_path / 'weights.pth')
    torch.save(trained, path)
    constant = dict(type='Constant', layer='Linear', val=0.5, bias=7.0)
    model = small(init_cfg=[dict(type='Pretrained', checkpoint=path), constant])
    model.init_weights()
    # What the checkpoint lacks keeps the initialisation of its own module.
    assert_holds(model, {**trained, 'blocks.1.mlp.fc2.bias': torch.zeros(16)})


def test_init_weights_of_a_model_loads_the_checkpoint_of_its_backbone(trained, tmp_path):
    class Segmentor(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = small(
                init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
            )

        def forward(self, inputs):
            return self.backbone(inputs)

    torch.save(trained, tmp_path / 'weights.pth')
    model = Segmentor()
    model.init_weights()
    assert_holds(model.backbone, trained)


def test_layout_that_shares_a_key_or_two_is_refused(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    shared = {key: trained[key] for key in ('cls_token', 'pos_embed')}
    torch.save({**shared, 'layers.0.ln1.weight': torch.ones(16)}, path)
    with pytest.raises(UserError, match='unknown layout'):
        load_pretrained(small(), path)


def test_prefix_names_the_part_of_a_model_that_is_loaded(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({**prefixed(trained, 'teacher.'), 'other.weight': torch.ones(1)}, path)
    cfg = dict(type='Pretrained', checkpoint=str(path), prefix='teacher.')
    model = small(init_cfg=cfg)
    model.init_weights()
    assert_holds(model, trained)


def test_arguments_that_training_scripts_save_do_not_hinder(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'state_dict': trained, 'args': argparse.Namespace(lr=0.1)}, path)
    assert find_state_dict(read_checkpoint(path)).keys() == trained.keys()


def test_grid_of_our_own_checkpoints_is_known_also_where_it_is_not_square(tmp_path):
    # 2 x 8 tokens, as many as 4 x 4
    wide = small(img_size=(16, 64))
    path = tmp_path / 'weights.pth'
    content = {'state_dict': nn.ModuleDict({'backbone': wide}).state_dict()}
    torch.save(content, path)
    square = small()
    load_pretrained(square, path)
    expected = resize_pos_embed(wide.pos_embed, (2, 8), (4, 4), 1)
    torch.testing.assert_close(square.pos_embed, expected)


def test_class_token_is_left_out_where_the_model_has_none(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(trained, path)
    model = small(with_cls_token=False, out_type='featmap')
    load_pretrained(model, path)
    torch.testing.assert_close(model.pos_embed, trained['pos_embed'][:, 1:])


def test_position_embedding_of_another_size_is_resized(trained, tmp_path):
    torch.save(trained, tmp_path / 'weights.pth')
    model, reference = small(img_size=(48, 40)), small(img_size=(48, 40))
    load_pretrained(model, tmp_path / 'weights.pth')
    reference.load_state_dict(trained)
    assert_holds(model, reference.state_dict())


def test_log_names_what_is_missing_and_left_out(trained, tmp_path, caplog):
    del trained['norm.bias']
    torch.save({**trained, **head(), 'surplus': torch.ones(1)}, tmp_path / 'weights.pth')
    with caplog.at_level(logging.INFO, 'kat_mm'):
        load_pretrained(small(), tmp_path / 'weights.pth', ignore='surplus')
    lines = {record.getMessage() for record in caplog.records}
    assert {'Missing: norm.bias', 'Left out: head.weight, head.bias, surplus'} <= lines


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
@pytest.mark.parametrize('trust', [False, True])
def test_code_in_a_file_is_not_run(trust, kind, tmp_path, safe_globals):
    path, target, control = tmp_path / 'weights.pth', tmp_path / 'ran', tmp_path / 'control'
    pickle.loads(pickle.dumps(Bomb(os.system, f'touch {control}')))
    assert control.exists()
    write, reason = WRITERS[kind]
    write({'norm.weight': torch.ones(16), 'bomb': Bomb(os.system, f'touch {target}')}, path)
    if trust:
        trust_mmengine_checkpoints()
    with pytest.raises(UserError, match=reason) as raised:
        load_pretrained(small(), path)
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


def test_weights_of_other_shapes_are_refused_and_named(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(trained, path)
    with pytest.raises(UserError) as raised:
        load_pretrained(small(arch={**SMALL, 'feedforward_channels': 64}), path)
    for word in (str(path), 'blocks.0.mlp.fc1.weight', '[32, 16]', '[64, 16]', 'arch'):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    'content',
    [{'layer1.0.conv1.weight': torch.ones(1)}, {}, {'state_dict': {}}, head(), {'epoch': 3}],
)
def test_checkpoint_in_which_nothing_fits_is_refused_by_name(content, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(content, path)
    with pytest.raises(UserError, match='has no weights for the backbone') as raised:
        load_pretrained(small(), path)
    assert str(path) in str(raised.value)


# Checkpoints of mmengine


@pytest.fixture
def safe_globals():
    """What torch trusts, put back as it was after the test."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = small()

    def forward(self, inputs, mode):
        return dict(loss=self.backbone(torch.stack(inputs))[0].square().mean())


@pytest.fixture(scope='module')
def runner_checkpoint(tmp_path_factory):
    """The checkpoint that an mmengine Runner writes after training for 2 iterations."""
    work_dir = tmp_path_factory.mktemp('runner')
    runner = Runner(
        Classifier(),
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
        experiment_name='test_load',
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
    model = small()
    load_pretrained(model, path)
    assert_holds(model, runner.model.backbone.state_dict())


def test_reading_a_checkpoint_leaves_what_torch_trusts_as_it_was(runner_checkpoint, safe_globals):
    read_checkpoint(runner_checkpoint[1])
    assert torch.serialization.get_safe_globals() == []


def test_trusting_mmengine_lets_plain_torch_load_read_its_checkpoints(
    runner_checkpoint, safe_globals
):
    trust_mmengine_checkpoints()
    content = weights_only(runner_checkpoint[1])
    assert isinstance(content['message_hub']['log_scalars']['train/loss'], HistoryBuffer)
