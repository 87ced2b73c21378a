"""Runs in processes of their own, which are sent signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from one_parameter import make_runner

from kat_mm.engine.work_dir import latest_checkpoint

# Waits at a moment until the signal is sent.
TRAIN = """
import os, sys, time
import torch
from mmengine.hooks import Hook
from one_parameter import make_runner
from kat_mm.engine.launch import run_tool

folder, by_epoch, ema, interval, hold, rank, world_size = sys.argv[1:]

class HoldHook(Hook):
    def wait(self, event, runner):
        if f'{event} {runner.iter}' == hold:
            print('ready', flush=True)
            while not os.path.exists(folder + '/go'):
                time.sleep(0.01)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.wait('train', runner)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.wait('val', runner)

def train():
    arguments = {}
    if world_size != '1':
        os.environ['LOCAL_RANK'] = rank
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=int(world_size)
        )
        wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
        arguments = dict(cfg=dict(model_wrapper_cfg=wrapper), launcher='pytorch')
        arguments['env_cfg'] = dict(dist_cfg=dict(backend='gloo'))
    hooks = [dict(type='PreemptionHook', interval=1), HoldHook()]
    hooks += [dict(type='EMAHook', momentum=0.5)] if ema == 'True' else []
    checkpoint = dict(interval=int(interval))
    make_runner(
        folder, by_epoch == 'True', hooks, num_workers=1, checkpoint=checkpoint, **arguments
    ).train()

run_tool(train)
"""


def start(folder, hold, by_epoch=False, ema=False, interval=2, rank=0, world_size=1):
    path = [str(Path(__file__).parent), *sys.path]
    return subprocess.Popen(
        [sys.executable, '-c', TRAIN]
        + [str(value) for value in (folder, by_epoch, ema, interval, hold, rank, world_size)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path), OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what runs in its background ignore Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until_ready(process):
    for line in process.stdout:
        if line == 'ready\n':
            return
    raise AssertionError(process.stderr.read())


def finish(folder, **kwargs):
    make_runner(folder, load_from=latest_checkpoint(str(folder)), resume=True, **kwargs).train()


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']['weight']


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    'by_epoch, interval, hold, saved, ema',
    [
        slow(False, 2, 'train 2', 'iter_3.pth', False),
        slow(False, 2, 'train 2', 'iter_3.pth', True),
        slow(False, 2, 'train 5', 'iter_6.pth', False),
        slow(False, 2, 'train 5', 'iter_6.pth', True),
        slow(False, 2, 'val 4', 'iter_4.pth', False),  # which was saved before
        slow(False, 2, 'val 4', 'iter_4.pth', True),
        slow(False, 4, 'val 2', 'iter_2.pth', False),
        (False, 4, 'val 2', 'iter_2.pth', True),
        (True, 1, 'train 4', 'iter_5.pth', False),  # within the second epoch of three iterations
        slow(True, 1, 'train 4', 'iter_5.pth', True),
        slow(True, 2, 'val 3', 'epoch_1.pth', False),
        slow(True, 2, 'val 3', 'epoch_1.pth', True),
    ],
)
def test_a_run_that_gets_sigterm_saves_and_goes_on_as_if_never_stopped(
    by_epoch, interval, hold, saved, ema, tmp_path
):
    hooks = [dict(type='EMAHook', momentum=0.5)] if ema else []
    settings = dict(by_epoch=by_epoch, hooks=hooks, checkpoint=dict(interval=interval))
    make_runner(tmp_path / 'whole', **settings).train()
    folder = tmp_path / 'stopped'
    process = start(folder, hold, by_epoch, ema, interval)
    wait_until_ready(process)
    process.send_signal(signal.SIGTERM)
    (folder / 'go').touch()
    _, stderr = process.communicate()
    assert process.returncode == 143, stderr
    assert 'Traceback' not in stderr
    assert latest_checkpoint(str(folder)) == str(folder / saved)
    finish(folder, **settings)
    names = sorted(path.name for path in (tmp_path / 'whole').glob('*.pth'))
    assert sorted(path.name for path in folder.glob('*.pth')) == names
    for name in names:
        assert torch.equal(weights(folder / name), weights(tmp_path / 'whole' / name))


@pytest.mark.parametrize(
    'hold, saved',
    [
        slow('train 1', 'iter_2.pth'),  # before the validation
        ('train 2', 'iter_4.pth'),  # an iteration later
        slow('val 2', 'iter_3.pth'),  # whose batch is its last
    ],
)
def test_two_processes_agree_where_one_gets_sigterm(hold, saved, tmp_path):
    processes = [start(tmp_path, hold, rank=rank, world_size=2) for rank in range(2)]
    for process in processes:
        wait_until_ready(process)
    processes[1].send_signal(signal.SIGTERM)
    (tmp_path / 'go').touch()
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 143, stderr
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / saved)


def test_ctrl_c_ends_at_once_with_one_line(tmp_path):
    process = start(tmp_path, 'train 2')
    wait_until_ready(process)
    workers = psutil.Process(process.pid).children()
    assert workers
    for member in (psutil.Process(process.pid), *workers):  # as a terminal does
        member.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert [line for line in stderr.splitlines() if 'warn' not in line.lower()] == ['interrupted']


@pytest.mark.parametrize('number', [signal.SIGKILL, slow(signal.SIGTERM), slow(signal.SIGINT)])
def test_no_worker_outlives_its_parent(number, tmp_path):
    process = start(tmp_path, 'train 2')
    wait_until_ready(process)
    workers = psutil.Process(process.pid).children()
    assert workers
    process.send_signal(number)
    (tmp_path / 'go').touch()
    process.communicate()
    psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in workers if worker.is_running()]


@pytest.mark.slow
def test_a_signal_to_a_worker_is_its_parents_matter(tmp_path):
    process = start(tmp_path, 'train 2')
    wait_until_ready(process)
    (worker,) = psutil.Process(process.pid).children()
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    assert worker.is_running() and process.poll() is None
    process.kill()
    process.communicate()
