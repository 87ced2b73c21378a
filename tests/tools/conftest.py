import runpy
import sys
from pathlib import Path

import pytest

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
