"""benchmarks/run.py detection, as a user runs it, at a small size."""

import json

import pytest


@pytest.mark.slow
def test_variants_take_turns_and_the_profile_tells_who_waits(run_benchmark, tmp_path):
    variants = ['--variants', 'mmdet', 'fast heads']
    options = ['detection', '--quick', '--profile', '--images', '1', *variants]
    assert run_benchmark('run.py', *options, '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    for one in results['images']['1'].values():
        for kind in ('train', 'predict'):
            assert one[kind]['ms']['median'] > 0 and one[kind]['gpu_ms'] > 0
    waits = {
        name: sum(
            count
            for part, row in table.items()
            if part.startswith(('RPN', 'RoI'))
            for count in row['waits'].values()
        )
        for name, table in results['profile'].items()
    }
    assert waits['mmdet'] > 50 and waits['fast heads'] == 0
