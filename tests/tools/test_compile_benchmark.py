"""benchmarks/run.py compile, as a user runs it, with a small model."""

import cProfile
import json

import pytest


@pytest.mark.slow
def test_the_first_step_is_taken_apart(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'compile', '--quick', '--out-dir', 'o') == 0
    (found,) = json.loads((tmp_path / 'o' / 'results.json').read_text())['models'].values()
    stages = found['stages_seconds']
    for stage in ('tracing of Python', 'tracing of forward and backward', 'lowering'):
        assert 0 < stages[stage] < found['first_step_seconds']
    assert found['second_step_seconds'] < found['first_step_seconds']
    # A CPU runs no kernel of Triton.
    assert found['profile']['analysis'] == {}


def test_calls_of_the_analysis_are_counted(run_benchmark):
    import compile_time

    source = (
        'def generate_ttir():\n    pass\ndef identify_mutated_tensors():\n    generate_ttir()\n'
    )
    functions = {}
    exec(compile(source, 'torch/_higher_order_ops/triton_kernel_wrap.py', 'exec'), functions)
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(3):
        functions['identify_mutated_tensors']()
    profile.disable()
    found = compile_time.analysis(profile)
    assert {name: one['calls'] for name, one in found.items()} == {
        'identify_mutated_tensors': 3,
        'generate_ttir': 3,
    }
