"""benchmarks/run.py foundation, as a user runs it, at a small size."""

import json

import pytest


@pytest.mark.slow
def test_timms_model_and_ours_take_turns_and_compute_the_same(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'foundation', '--quick', '--out-dir', 'o') == 0
    (entry,) = json.loads((tmp_path / 'o' / 'results.json').read_text())['entries']
    assert entry['ms'].keys() == entry['gpu_ms'].keys() == {'timm', 'KAT', 'ViT'}
    assert all(one['median'] > 0 for one in entry['ms'].values())
    assert entry['ratio_to_timm']['timm'] == 1
    # float32; a KAT begins with a fit of GELU.
    assert entry['logits_apart']['ViT'] < 1e-5
    assert entry['logits_apart']['KAT'] < 0.05


def test_sizes_that_are_not_measured_are_refused(run_benchmark):
    message = run_benchmark('run.py', 'foundation', '--sizes', 'T', '--out-dir', 'o')
    assert 'foundation is measured for sizes S, B' in message


def test_cases_of_earlier_versions_are_kept_under_the_names_of_today(run_benchmark, tmp_path):
    import foundation

    path = tmp_path / 'results.json'
    earlier = dict(machine=foundation.machine(), entries=[dict(size='S', memory_gib=dict(KAT=1.0))])
    path.write_text(json.dumps(earlier))
    assert foundation.kept_results(path)['entries'] == [
        dict(size='S', allocated_mb=dict(KAT=1073.7))
    ]
