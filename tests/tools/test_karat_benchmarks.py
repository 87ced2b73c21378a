"""benchmarks/karat.py and karat_cifar10.py, as a user runs them, at a small size."""

import json

import mmcv
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


def work_dir(folder, name, accuracies, start='20260101_000000', attention=None):
    logs = folder / name / start / 'vis_data'
    logs.mkdir(parents=True)
    attn_cfg = dict(type='SoftmaxAttention' if 'softmax' in name else 'KArAt')
    config = dict(
        model=dict(backbone=dict(attn_cfg={**attn_cfg, **(attention or {})})),
        train_dataloader=dict(batch_size=128),
        randomness=dict(seed=3),
    )
    (folder / name / f'{name}.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in config.items()))
    entries = [
        dict(loss=2.0 / i, step=100 * i, time=0.5, memory=1000 + i, epoch=i) for i in range(1, 4)
    ]
    entries += [
        {'accuracy/top1': top1, 'accuracy/top5': 99.0, 'step': 5 * i}
        for i, top1 in enumerate(accuracies, 1)
    ]
    (logs / 'scalars.json').write_text('\n'.join(map(json.dumps, entries)))


def test_accuracies_are_gathered_beside_the_published_ones(run_benchmark, tmp_path):
    work_dir(tmp_path / 'runs', 'vit_t_softmax_cifar10', [40.0, 50.126])
    work_dir(tmp_path / 'runs', 'vit_t_karat_universal_cifar10', [41.0, 52.0])
    assert run_benchmark('karat_cifar10.py', '--work-dirs', 'runs', '--out-dir', 'out') == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert results.pop('machine')['torch']
    assert results.keys() == {'vit_t_softmax_cifar10', 'vit_t_karat_universal_cifar10'}
    softmax = results['vit_t_softmax_cifar10']
    assert (softmax['top1'], softmax['epochs'], softmax['seed']) == (50.13, 10, 3)
    assert softmax['published_top1_after_100_epochs'] == 72.76
    assert softmax['train_memory_mb'] == 1003
    assert results['vit_t_karat_universal_cifar10']['published_top1_after_100_epochs'] == 75.56
    assert softmax['function_init'] is None
    assert results['vit_t_karat_universal_cifar10']['function_init'] == 'normal'
    assert mmcv.imread(tmp_path / 'out' / 'curves.png').shape[1] > 500


def test_runs_that_are_missing_keep_their_earlier_results(run_benchmark, tmp_path):
    work_dir(tmp_path / 'old', 'vit_t_softmax_cifar10', [40.0])
    earlier = dict(operator='phi1_w2')
    work_dir(tmp_path / 'old', 'vit_t_karat_cifar10', [41.0], attention=earlier)
    work_dir(tmp_path / 'old', 'kat_t_karat_cifar10', [42.0], attention=earlier)
    work_dir(tmp_path / 'new', 'vit_t_karat_cifar10', [43.0])
    for folder in ('old', 'new'):
        options = ['--work-dirs', folder, '--out-dir', 'out']
        assert run_benchmark('karat_cifar10.py', *options) == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    results.pop('machine')
    got = {name: (result['top1'], result['function_init']) for name, result in results.items()}
    assert got == dict(
        vit_t_softmax_cifar10=(40.0, None),
        vit_t_karat_cifar10=(43.0, 'normal'),
        kat_t_karat_cifar10=(42.0, 'scaled'),
    )


def test_what_a_resumed_run_did_again_counts_once(run_benchmark, tmp_path):
    for start, scores in (
        ('20260101_000000', [40.0, 50.0]),
        ('20260102_000000', [40.0, 52.0, 53.0]),
    ):
        work_dir(tmp_path, 'kat_t_karat_cifar10', scores, start)
    assert run_benchmark('karat_cifar10.py', '--work-dirs', tmp_path, '--out-dir', 'out') == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())['kat_t_karat_cifar10']
    assert results['top1_curve'] == [[5, 40.0], [10, 52.0], [15, 53.0]]
    assert [step for step, _ in results['loss_curve']] == [100, 200, 300]


def test_work_folders_without_results_are_refused(run_benchmark, tmp_path):
    assert 'holds none of the runs' in run_benchmark('karat_cifar10.py', '--work-dirs', tmp_path)
    work_dir(tmp_path, 'kat_t_karat_cifar10', [])
    assert 'never evaluated' in run_benchmark('karat_cifar10.py', '--work-dirs', tmp_path)
