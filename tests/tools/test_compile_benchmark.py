"""benchmarks/run.py compile, as a user runs it, with a small model."""

import json

import pytest
from torch._higher_order_ops import triton_kernel_wrap


@pytest.mark.slow
def test_the_first_step_is_taken_apart(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'compile', '--quick', '--out-dir', 'o') == 0
    (found,) = json.loads((tmp_path / 'o' / 'results.json').read_text())['models'].values()
    stages = found['stages_seconds']
    for stage in ('tracing of Python', 'tracing of forward and backward', 'lowering'):
        assert 0 < stages[stage] < found['first_step_seconds']
    assert found['second_step_seconds'] < found['first_step_seconds']
    assert found['first_step_seconds'] == found['first_steps_seconds'][1]
    # A CPU runs no kernel of Triton.
    assert [one['calls'] for one in found['analyses'].values()] == [0]


def test_the_fastest_turn_that_counts_is_kept(run_benchmark):
    import compile_time

    model = dict(first_steps_seconds=[])
    for turn, seconds in enumerate((1, 5, 3, 4)):
        found = dict(first_step_seconds=seconds, turn=turn)
        compile_time.take(model, found, counts=turn > 0)
    assert model == dict(first_steps_seconds=[1, 5, 3, 4], first_step_seconds=3, turn=2)


def test_calls_of_the_analysis_are_counted(run_benchmark, monkeypatch):
    import compile_time

    (name,) = (name for name in compile_time.ANALYSES if hasattr(triton_kernel_wrap, name))
    monkeypatch.setattr(triton_kernel_wrap, name, lambda kernel, arguments: arguments)
    found = compile_time.count_analyses()
    for number in range(3):
        assert getattr(triton_kernel_wrap, name)(None, number) == number
    assert found[name]['calls'] == 3
