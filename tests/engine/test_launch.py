import argparse
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from kat_mm.engine import launch
from kat_mm.errors import UserError


class Broken(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError('library: deep inside')
        except OSError as error:
            raise self.error from error


def run(main, capsys):
    """What a tool prints at its end, and its exit status."""
    with pytest.raises(SystemExit) as end:
        launch.run_tool(main)
    # sys.exit prints a message and exits with 1.
    assert isinstance(end.value.code, str)
    return end.value.code, capsys.readouterr().err


def test_communication_ends_with_the_tool(tmp_path):
    def main():
        store = f'file://{tmp_path}/store'
        torch.distributed.init_process_group('gloo', init_method=store, rank=0, world_size=1)

    launch.run_tool(main)
    assert not torch.distributed.is_initialized()


def arguments(config, *options):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    launch.add_common_arguments(parser)
    return parser.parse_args([str(config), *options])


def test_a_users_mistake_ends_in_its_message_alone(capsys):
    def main():
        raise UserError('put the file there')

    assert run(main, capsys) == ('error: put the file there', '')


def test_any_other_error_keeps_its_traceback(capsys):
    def main():
        raise ZeroDivisionError('by zero')

    message, printed = run(main, capsys)
    assert message == 'error: ZeroDivisionError: by zero'
    assert 'Traceback' in printed and 'in main' in printed


@pytest.mark.parametrize('num_workers', [0, 1])
def test_the_message_survives_the_traceback_of_a_worker(capsys, num_workers):
    def main():
        loader = DataLoader(
            Broken(UserError('a.png does not decode: mend it')), None, num_workers=num_workers
        )
        next(iter(loader))

    assert run(main, capsys) == ('error: a.png does not decode: mend it', '')


def test_a_tool_that_succeeds_just_returns():
    done = []
    launch.run_tool(lambda: done.append(True))
    assert done


def test_options_override_the_config(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'mine.py'
    path.write_text("a = dict(b=1, c='x')\n")
    cfg = launch.load_config(arguments(path, '--cfg-options', 'a.b=2', 'd=[1,2]'))
    assert cfg.a == dict(b=2, c='x')
    assert cfg.d == [1, 2]


def test_the_work_folder_is_the_options_then_the_configs_then_named_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'mine.py'
    path.write_text('a = 1\n')
    assert launch.load_config(arguments(path)).work_dir == 'work_dirs/mine'
    path.write_text("work_dir = 'chosen'\n")
    assert launch.load_config(arguments(path)).work_dir == 'chosen'
    assert launch.load_config(arguments(path, '--work-dir', 'given')).work_dir == 'given'


@pytest.mark.parametrize(
    'content, options, message',
    [
        ('a = (\n', [], 'mine.py cannot be read: '),
        ("_base_ = './nowhere.py'\n", [], 'mine.py cannot be read: .*nowhere.py'),
        ('a = 1\n', ['--cfg-options', 'a.b=1'], 'mine.py cannot be read: '),
    ],
)
def test_a_config_that_cannot_be_read_is_a_users_mistake(
    tmp_path, monkeypatch, content, options, message
):
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'mine.py'
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        launch.load_config(arguments(path, *options))


def test_every_sync_bn_becomes_bn_wherever_it_stands():
    model = Config(
        dict(
            norm_cfg=dict(type='SyncBN', requires_grad=True),
            heads=[dict(norm_cfg=dict(type='SyncBN', eps=1e-3)), dict(norm_cfg=dict(type='LN'))],
        )
    )
    assert launch._replace_sync_bn(model._cfg_dict)
    assert model.norm_cfg == dict(type='BN', requires_grad=True)
    assert model.heads == [dict(norm_cfg=dict(type='BN', eps=1e-3)), dict(norm_cfg=dict(type='LN'))]
    assert not launch._replace_sync_bn(model._cfg_dict)


def test_mixed_precision_is_dropped_with_its_options():
    wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0, optimizer=dict(lr=1))
    cfg = Config(dict(optim_wrapper=wrapper))
    assert launch._drop_amp(cfg)
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(lr=1))


@pytest.mark.parametrize(
    'content', [dict(), dict(optim_wrapper=dict(type='OptimWrapper', accumulative_counts=2))]
)
def test_without_mixed_precision_nothing_is_dropped(content):
    cfg = Config(content)
    assert not launch._drop_amp(cfg)
    assert cfg._cfg_dict == content


@pytest.mark.parametrize('trains', [True, False])
def test_what_becomes_of_mixed_precision_is_told_to_those_who_train(trains, monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(launch, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(launch, '_tell', lambda runner: None)
    runner = SimpleNamespace(logger=logging.getLogger('none'))
    monkeypatch.setattr(launch.CheckpointRunner, 'from_cfg', lambda cfg: runner)
    cfg = Config(dict(launcher='none', optim_wrapper=dict(type='AmpOptimWrapper')))
    launch.build_runner(cfg, trains)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert said == ['Mixed precision needs a GPU: training in float32'] * trains
