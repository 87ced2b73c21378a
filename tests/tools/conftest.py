import runpy
import sys
from pathlib import Path

import pytest
import torch

from kat_mm.dense import graphs

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def run_benchmark(monkeypatch, tmp_path):
    """Run a script of benchmarks/ in a folder of its own: its exit code."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)

    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        try:
            runpy.run_path(str(BENCHMARKS / name), run_name='__main__')
        except SystemExit as exit:
            return exit.code
        return 0

    return run


class FakeRecording:
    """A CUDA graph on a CPU, which computes again; of some parts there is no memory for it."""

    full = ()  # names of parts, and whether in training

    def __init__(self, owner, args):
        if (owner.name, owner.part.training) in self.full:
            raise torch.OutOfMemoryError('full')
        self.plain = owner.plain

    def run(self, args):
        return self.plain(*args)


@pytest.fixture
def fake_graphs(monkeypatch):
    """Let parts be recorded on a CPU: a function that takes those that are too large."""
    monkeypatch.setattr(graphs, 'Recording', FakeRecording)
    monkeypatch.setattr(graphs, '_on_gpu', lambda x: True)
    monkeypatch.setattr(graphs, '_is_capturing', lambda: False)
    monkeypatch.setattr(graphs, '_new_pool', object)
    return lambda *full: monkeypatch.setattr(FakeRecording, 'full', full)
