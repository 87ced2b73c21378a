"""Results of benchmarks: one vocabulary, also for files of earlier versions."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
FILES = sorted(BENCHMARKS.glob('results/*/*.json'))


def keys(results):
    children = results.values() if isinstance(results, dict) else results
    found = set(results) if isinstance(results, dict) else set()
    for child in children:
        if isinstance(child, dict | list):
            found |= keys(child)
    return found


@pytest.fixture
def timing(run_benchmark):
    import timing

    return timing


def test_memory_is_called_the_same_in_the_files_of_all_versions(timing):
    for path in FILES:
        found = keys(timing.load(path))
        assert not found & timing.RENAMED.keys(), path
        memory = {key for key in found if key.endswith(('_mb', '_gib', '_gb'))}
        ours = {key for key in memory if key.endswith(('allocated_mb', 'reserved_mb'))}
        assert memory - ours <= {'train_memory_mb', 'imports_gb', 'peak_gb'}, path


def test_earlier_units_are_converted(timing, tmp_path):
    earlier = dict(
        entries=[dict(memory_gib=dict(KAT=1.0, timm=0.5))], train_mb=3.0, memory_gib=None
    )
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(earlier))
    assert timing.load(path) == dict(
        entries=[dict(allocated_mb=dict(KAT=1073.7, timm=536.9))],
        train_allocated_mb=3.0,
        allocated_mb=None,
    )


@pytest.mark.parametrize(
    'what, picture',
    [('model', 'throughput.png'), ('segmentation', 'steps.png'), ('detection', 'steps.png')],
)
def test_pictures_are_redrawn_from_files_of_earlier_versions(
    what, picture, run_benchmark, tmp_path
):
    (tmp_path / 'o').mkdir()
    source = BENCHMARKS / 'results' / what / 'results.json'
    (tmp_path / 'o' / 'results.json').write_text(source.read_text())
    assert run_benchmark('run.py', what, '--redraw', '--out-dir', 'o') == 0
    assert (tmp_path / 'o' / picture).read_bytes().startswith(b'\x89PNG')
