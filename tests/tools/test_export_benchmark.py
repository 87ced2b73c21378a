"""benchmarks/export.py: what it measures, and the tables of docs/export.md."""

import json
import sys

import pytest
import torch
from tools_runner import ROOT

from kat_mm.layers import GRKAN


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's modules, which lie outside of the package."""
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import export
    import export_tables

    yield export, export_tables
    for name in ('export', 'export_tables'):
        del sys.modules[name]


def test_the_page_has_the_numbers_of_the_results(modules, tmp_path):
    _, tables = modules
    page = tmp_path / 'export.md'
    page.write_text(tables.PAGE.read_text())
    tables.write_tables(page, tables.RESULTS)
    assert page.read_text() == tables.PAGE.read_text()
    for name, title in tables.TITLES.items():
        if name in json.loads((tables.RESULTS / 'results.json').read_text()):
            assert f'| {title}, ' in page.read_text()


def test_turns_end_with_their_seconds_and_each_has_all_functions(modules):
    export, _ = modules
    calls = []
    functions = dict(a=lambda: calls.append('a'), b=lambda: calls.append('b'))
    samples = export.in_turns(functions, seconds=0)
    assert {len(values) for values in samples.values()} == {export.LEAST_ROUNDS}
    assert calls == list('ab' + 'ba' + 'ab' + 'ba')


def test_the_floor_copies_where_a_kat_has_rational_functions(modules):
    export, _ = modules
    network = torch.nn.Sequential(GRKAN(16, 32))
    floor = export.without_rationals(network)
    x = torch.randn(2, 5, 16)
    layer = network[0]
    assert torch.equal(floor(x), layer.fc2(layer.fc1(x + 1) + 1))
