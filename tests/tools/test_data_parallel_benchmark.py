"""benchmarks/data_parallel.py, as a user tries it on a CPU."""

import json

import pytest


@pytest.mark.slow
def test_two_processes_are_measured_against_one(run_benchmark, tmp_path):
    assert run_benchmark('data_parallel.py', '--quick', '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    assert len(results['models']) == 4
    for model in results['models'].values():
        one, both = (model['images_per_second'][count][0] for count in '12')
        assert model['ratio_to_all_of_one'] == pytest.approx(both / (2 * one))
        assert all(model['gpu_ms'][count][0] > 0 for count in '12')
    assert [lead.keys() for lead in results['lead_over_timm'].values()] == [{'1', '2'}]


def test_it_is_measured_on_gpus_alone(run_benchmark):
    import torch

    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    assert 'needs a CUDA GPU' in run_benchmark('data_parallel.py', '--out-dir', 'o')


def test_each_turn_is_saved(run_benchmark, monkeypatch, tmp_path):
    import data_parallel

    names = [prefix + name for prefix in ('', 'compiled ') for name in ('KAT-B', 'timm ViT-B')]
    turns = iter(
        [
            {
                name: dict(images_per_second=rate, gpu_ms=30.0, nccl_ms=0.5)
                for name, rate in zip(names, rates, strict=True)
            }
            for rates in [(100, 100, 120, 110), (190, 180, 240, 165)]
        ]
    )
    monkeypatch.setattr(data_parallel, 'launch', lambda count, quick: next(turns))
    with pytest.raises(StopIteration):
        data_parallel.run(2, 2, tmp_path, quick=False)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['models']['KAT-B']['ratio_to_all_of_one'] == pytest.approx(0.95)
    assert results['models']['compiled timm ViT-B']['ratio_to_all_of_one'] == pytest.approx(0.75)
    assert results['lead_over_timm'] == {
        'KAT-B': {'1': 1.0, '2': 1.056},
        'compiled KAT-B': {'1': 1.091, '2': 1.455},
    }
