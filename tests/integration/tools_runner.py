"""Run command-line tools in processes of their own, without the seconds that imports take.

Every tool gets a fresh process, forked from one that has imported the libraries already.
"""

import functools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.strip().rpartition('\n')[2]


def run_tool(name: str, *args, cwd: Path = ROOT, timeout: float = 120, **environment) -> Result:
    """Run tools/<name> with arguments, and wait for its end."""
    context = _context()
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, 'stdout'), Path(folder, 'stderr')]
        argv = [str(ROOT / 'tools' / name), *map(str, args)]
        process = context.Process(target=_run, args=(argv, str(cwd), environment, streams))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f'{argv}: {streams[1].read_text()}')
        return Result(process.exitcode, *(stream.read_text() for stream in streams))


def run_script(name: str, *args) -> subprocess.CompletedProcess:
    """Run tools/<name> of the shell, which starts several processes on CPUs."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, PYTHON=sys.executable, PORT=str(port), CUDA_VISIBLE_DEVICES='')
    return subprocess.run(
        ['bash', ROOT / 'tools' / name, *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@functools.cache
def _context():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tools_preload'])
    # In Python 3.11 the server finds modules by this variable alone.
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    multiprocessing.forkserver.ensure_running()
    if before is None:
        del os.environ['PYTHONPATH']
    else:
        os.environ['PYTHONPATH'] = before
    return context


def _run(argv: list[str], cwd: str, environment: dict, streams: list[Path]) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream.fileno())
    # pytest replaced these in the process that this one imitates.
    sys.stdout = os.fdopen(1, 'w', buffering=1)
    sys.stderr = os.fdopen(2, 'w', buffering=1)
    os.chdir(cwd)
    os.environ.update(environment)
    # Two threads on two busy cores wait for each other.
    torch.set_num_threads(1)
    sys.argv = argv
    sys.path.insert(0, os.path.dirname(argv[0]))
    runpy.run_path(argv[0], run_name='__main__')


def read_scalars(work_dir: Path) -> list[dict]:
    """What the runs in a work folder logged, in the order of time."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def read_losses(work_dir: Path) -> dict[int, float]:
    """Loss of each iteration; a resumed run's replaces that of the run before it."""
    return {line['step']: line['loss'] for line in read_scalars(work_dir) if 'loss' in line}
