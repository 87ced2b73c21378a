"""benchmarks/run.py loading, as a user runs it, at a small size."""

import json


def test_batches_of_both_collate_functions_are_waited_for(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'loading', '--quick', '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    assert len(results['cases']) == 3
    for case in results['cases'].values():
        for which in ('mmengine', 'kat_mm'):
            assert 0 < case[which]['ms']['min'] < case[which]['read_ms']['max']
