"""benchmarks/run.py segmentation, as a user runs it, at a small size."""

import json

import pytest


@pytest.mark.slow
def test_mmsegs_heads_and_ours_take_turns_and_lose_the_same(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'segmentation', '--quick', '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    mmseg, ours = results['models'].values()
    for one in (mmseg, ours):
        assert one['train_ms']['median'] > 0 and one['validation_ms']['median'] > 0
        assert one['train_gpu_ms'] > 0 and one['train_kernels_ms']
    assert ours['losses'] == pytest.approx(mmseg['losses'], rel=1e-5)
    assert results['comparison'].keys() == {'kat_t_upernet_sample'}
