"""Two processes of torchrun, which get signals as a scheduler sends them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from tools_runner import ROOT

from kat_mm.engine.work_dir import latest_checkpoint


@pytest.fixture
def training(tiny_config, tmp_path):
    """tools/dist_train.sh, in the middle of a long training."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    options = ['train_cfg.max_iters=10000', 'train_cfg.val_interval=10000']
    options += ['train_dataloader.num_workers=1', 'default_hooks.checkpoint.interval=10000']
    command = ['bash', ROOT / 'tools/dist_train.sh', tiny_config, '2', '--work-dir', tmp_path]
    log = tmp_path / 'log'
    with open(log, 'w') as file:
        process = subprocess.Popen(
            [str(word) for word in [*command, '--cfg-options', *options]],
            env=dict(os.environ, PYTHON=sys.executable, PORT=str(port), CUDA_VISIBLE_DEVICES=''),
            stdout=file,
            stderr=file,
        )
    members = []
    try:
        while 'Iter(train) [' not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        members = psutil.Process(process.pid).children(recursive=True)
        yield process
    finally:
        for member in [process, *members]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def saved_iteration(work_dir):
    latest = latest_checkpoint(str(work_dir))
    content = torch.load(latest, weights_only=False)
    assert latest.endswith(f'iter_{content["meta"]["iter"]}.pth')
    return content['meta']['iter']


@pytest.mark.slow
def test_sigterm_to_the_script_saves_and_ends_with_143(training, tmp_path):
    members = psutil.Process(training.pid).children(recursive=True)
    training.send_signal(signal.SIGTERM)
    training.wait()
    assert training.returncode == 143
    assert 1 < saved_iteration(tmp_path) < 10000
    assert not psutil.wait_procs(members, timeout=60)[1]


@pytest.mark.slow
def test_processes_whose_torchrun_is_killed_save_and_end(training, tmp_path):
    (torchrun,) = psutil.Process(training.pid).children()
    members = torchrun.children(recursive=True)
    assert len(members) >= 4  # two processes with a worker each
    torchrun.kill()
    assert not psutil.wait_procs(members, timeout=120)[1]
    assert 1 < saved_iteration(tmp_path) < 10000
