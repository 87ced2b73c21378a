"""benchmarks/karat.py, as a user runs it, at a small size."""

import json

import pytest

from kat_mm.backbones.archs import ARCHS


def test_speed_is_measured_for_each_kind_beside_softmax(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHS, 'tiny', {**ARCHS['tiny'], 'num_layers': 2})
    small = ['--archs', 'tiny', '--batch-size', '1', '--img-size', '64', '--turns', '1']
    assert run_benchmark('karat.py', *small, '--device', 'cpu', '--steps', '1') == 0
    results = json.loads((tmp_path / 'benchmarks/results/karat/results.json').read_text())
    assert results['tiny'].keys() == {'softmax', 'KArAt plain', 'KArAt fused'}
    softmax = results['tiny']['softmax']
    assert softmax['speed_to_softmax'] == 1.0
    for result in results['tiny'].values():
        ratio = result['images_per_second'] / softmax['images_per_second']
        assert result['speed_to_softmax'] == pytest.approx(ratio, abs=0.01)
        assert result['kernels_ms']['all'] > 0
