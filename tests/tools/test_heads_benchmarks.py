"""benchmarks/run.py eomt and zoo, as a user runs them, at a small size."""

import json

import pytest


@pytest.mark.slow
def test_eomt_is_measured_against_its_backbone_and_without_its_masks(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'eomt', '--quick', '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    (model,) = results['models'].values()
    assert model['inference']['ratio'] > 0 and model['training']['masked_over_annealed'] > 0
    whole, rest = (model['post-processing'][f'from the {part}'] for part in ('image', 'logits'))
    assert 0 < rest['median'] < whole['median']


@pytest.mark.slow
def test_heads_of_the_zoo_are_measured_beside_their_twins(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'zoo', '--quick', '--out-dir', 'o') == 0
    configs = json.loads((tmp_path / 'o' / 'results.json').read_text())['configs']
    assert len(configs) == 4
    for name, found in configs.items():
        assert min(found['parameters'], found['flops'], found['train_ms']['median']) > 0
        twin = configs[name.replace('kat_', 'vit_')]
        # Products are the same; the coefficients of GR-KAN are few.
        assert found['flops'] == twin['flops']
        assert found['parameters'] == pytest.approx(twin['parameters'], rel=0.01)
