import shutil
import signal

import pytest
import torch
from tools_runner import read_losses, run_tool

RANDOM = """
_base_ = {base!r}
custom_imports = dict(imports=['kat_mm', 'stop_hook'], allow_failed_imports=False)
custom_hooks = [
    dict(type='SeedIterationHook'), dict(type='AverageLossHook'), dict(type='StopHook')
]
model = dict(
    backbone=dict(drop_rate=0.1, drop_path_rate=0.5, ffn_cfg=dict(drop_rate=0.1)),
    decode_head=dict(dropout_ratio=0.5),
)
default_hooks = dict(checkpoint=dict(interval=2))
"""


@pytest.fixture(scope='module')
def config(tiny_config, tmp_path_factory):
    """Augmentation, drop path and dropout, and a checkpoint at every second iteration."""
    path = tmp_path_factory.mktemp('resume') / 'random.py'
    path.write_text(RANDOM.format(base=str(tiny_config)))
    return path


@pytest.fixture(scope='module')
def uninterrupted(config, tmp_path_factory):
    """Work folder of a run of 6 iterations that is never stopped."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    result = run_tool('train.py', config, '--work-dir', work_dir)
    assert result.status == 0, result.stderr
    return work_dir


@pytest.fixture(scope='module', params=[0, 2])
def resumed(request, config, tmp_path_factory):
    """Work folder of the same run, killed in iteration 6 and resumed, with 0 and 2 workers."""
    work_dir = tmp_path_factory.mktemp('resumed')
    workers = ['--cfg-options', f'train_dataloader.num_workers={request.param}']
    killed = run_tool('train.py', config, '--work-dir', work_dir, *workers, STOP_AT='6')
    assert killed.status == -signal.SIGKILL
    assert list(read_losses(work_dir)) == [1, 2, 3, 4, 5]
    assert not (work_dir / 'iter_6.pth').exists()
    result = run_tool('train.py', config, '--work-dir', work_dir, '--resume', *workers)
    assert result.status == 0, result.stderr
    return work_dir


def test_a_killed_run_resumes_from_the_latest_checkpoint(resumed):
    first, second = sorted(resumed.glob('*/*.log'))
    assert str(resumed / 'iter_4.pth') in second.read_text()
    assert 'Iter(train) [4/6]' not in second.read_text()
    assert 'Iter(train) [5/6]' in second.read_text()


def test_a_resumed_run_has_the_losses_of_one_never_stopped(resumed, uninterrupted):
    assert read_losses(resumed) == read_losses(uninterrupted)


def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(resumed, uninterrupted):
    expected, found = (
        torch.load(work_dir / 'iter_6.pth', weights_only=False)['state_dict']
        for work_dir in (uninterrupted, resumed)
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_drop_path_and_dropout_are_at_work(uninterrupted, trained):
    # Otherwise the tests above would prove nothing about them.
    assert read_losses(uninterrupted)[1] != read_losses(trained)[1]


def test_resume_with_a_file_resumes_from_that_file(config, uninterrupted, tmp_path):
    shutil.copy(uninterrupted / 'iter_4.pth', tmp_path / 'mine.pth')
    work_dir = tmp_path / 'work'
    result = run_tool('train.py', config, '--work-dir', work_dir, '--resume', tmp_path / 'mine.pth')
    assert result.status == 0, result.stderr
    expected = read_losses(uninterrupted)
    assert read_losses(work_dir) == {step: expected[step] for step in (5, 6)}


def test_nothing_to_resume_from_is_a_beginning(config, uninterrupted, tmp_path):
    result = run_tool('train.py', config, '--work-dir', tmp_path, '--resume')
    assert result.status == 0, result.stderr
    assert f'No checkpoint in {tmp_path}: training begins at iteration 1' in result.stdout
    assert read_losses(tmp_path) == read_losses(uninterrupted)
