"""benchmarks/operators.py: one entry for each operator, and what it says that has to be moved."""

import json
from pathlib import Path

import pytest
import torch

import kat_mm.ops  # noqa: F401  registers the operators

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
PRODUCTS = {'linear', 'qkv_linear', 'low_rank_attend'}
ENTRIES = [
    'group_rational',
    'add_layer_norm',
    'feed_forward',
    'linear_rational',
    'activation',
    'rotary_tables',
    'fourier_low_rank',
    'resize',
    'resized_cross_entropy',
    'resampled_argmax',
    'suppress',
    *sorted(PRODUCTS),
]


@pytest.fixture
def operators(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import operators

    return operators


def test_every_operator_and_every_product_is_measured(operators):
    names = [name.split('::') for name in torch._C._dispatch_get_all_op_names()]
    registered = {name for family, name in names if family == 'kat_mm'}
    forward = {name for name in registered if not name.endswith('_backward')}
    assert operators.OPERATORS.keys() == forward | PRODUCTS


def test_the_tests_below_are_of_every_entry(operators):
    assert set(ENTRIES) == operators.OPERATORS.keys()


@pytest.mark.parametrize('name', ENTRIES)
def test_everything_that_an_entry_times_can_be_called(operators, name):
    for case in operators.OPERATORS[name](True):
        assert case.settings['shape']
        for what, function in case.functions.items():
            assert what.split()[0] in case.moved, what
            assert function() is not None
        assert all(size > 0 for size in case.floor_bytes().values())


@pytest.mark.parametrize(
    'name, forward, backward', [('group_rational', 4, 6), ('add_layer_norm', 12, 16)]
)
def test_floors_are_those_of_the_documentation(operators, name, forward, backward):
    case = next(operators.OPERATORS[name](True))  # of bfloat16, and without a function
    numbers = torch.Size(case.settings['shape']).numel()
    assert case.floor_bytes() == dict(forward=forward * numbers, backward=backward * numbers)


def test_earlier_results_can_be_plotted(operators, tmp_path):
    import ops

    results = json.loads((BENCHMARKS / 'results/ops/results.json').read_text())
    ops.plot(results, tmp_path / 'time.png')
    assert (tmp_path / 'time.png').stat().st_size > 10_000


def test_some_operators_are_measured_alone_and_results_of_all_stay(
    operators, monkeypatch, tmp_path, capsys
):
    import ops

    monkeypatch.setattr(ops, 'require_gpu', lambda: None)
    monkeypatch.setattr(ops, 'copy_of', lambda num_bytes: lambda: None)
    monkeypatch.setattr(
        ops, 'kernel_times', lambda functions: dict.fromkeys(functions, {'median': 2.0})
    )
    ops.run(tmp_path, ['rotary_tables'])
    printed = capsys.readouterr().out
    assert 'rotary_tables' in printed and 'group_rational' not in printed
    assert not list(tmp_path.iterdir())


def test_options_of_other_benchmarks_are_refused(run_benchmark, capsys):
    assert run_benchmark('run.py', 'ops', '--quick') == 2
    assert 'unrecognized arguments: --quick' in capsys.readouterr().err
