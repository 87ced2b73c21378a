"""benchmarks/compare.py, as a user runs it, on logs of runs."""

import json
from pathlib import Path
from unittest import mock

import mmcv
import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


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


@pytest.fixture
def compare(run_benchmark):
    def run(*args):
        return run_benchmark('compare.py', 'karat_cifar10', *args)

    return run


def test_accuracies_are_gathered_beside_the_published_ones(compare, tmp_path):
    work_dir(tmp_path / 'runs', 'vit_t_softmax_cifar10', [40.0, 50.126])
    work_dir(tmp_path / 'runs', 'vit_t_karat_universal_cifar10', [41.0, 52.0])
    assert compare('--work-dirs', 'runs', '--out-dir', 'out') == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert results['machine']['torch']
    assert results['runs'].keys() == {'ViT-T', 'ViT-T + KArAt G3U'}
    softmax, karat = results['runs'].values()
    assert (softmax['top1'], softmax['top5'], softmax['seed']) == (50.13, 99.0, 3)
    assert softmax['published_top1'] == 72.76
    assert (softmax['train_memory_mb'], softmax['train_images_per_second']) == (1003, 256.0)
    assert karat['published_top1'] == 75.56
    assert softmax['function_init'] is None
    assert karat['function_init'] == 'normal'
    assert mmcv.imread(tmp_path / 'out' / 'curves.png').shape[1] > 500


def test_runs_that_are_missing_keep_their_earlier_results(compare, tmp_path):
    work_dir(tmp_path / 'old', 'vit_t_softmax_cifar10', [40.0])
    earlier = dict(operator='phi1_w2')
    work_dir(tmp_path / 'old', 'vit_t_karat_cifar10', [41.0], attention=earlier)
    work_dir(tmp_path / 'old', 'kat_t_karat_cifar10', [42.0], attention=earlier)
    work_dir(tmp_path / 'new', 'vit_t_karat_cifar10', [43.0])
    for folder in ('old', 'new'):
        options = ['--work-dirs', folder, '--out-dir', 'out']
        assert compare(*options) == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())['runs']
    got = {name: (result['top1'], result['function_init']) for name, result in results.items()}
    assert got == {
        'ViT-T': (40.0, None),
        'ViT-T + KArAt G3B': (43.0, 'normal'),
        'KAT-T + KArAt G3B': (42.0, 'scaled'),
    }


def test_what_a_resumed_run_did_again_counts_once(compare, tmp_path):
    for start, scores in (
        ('20260101_000000', [40.0, 50.0]),
        ('20260102_000000', [40.0, 52.0, 53.0]),
    ):
        work_dir(tmp_path, 'kat_t_karat_cifar10', scores, start)
    assert compare('--work-dirs', tmp_path, '--out-dir', 'out') == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())['runs']
    results = results['KAT-T + KArAt G3B']
    assert results['top1_curve'] == [[5, 40.0], [10, 52.0], [15, 53.0]]
    assert [step for step, _ in results['loss_curve']] == [100, 200, 300]


def test_work_folders_without_results_are_refused(compare, tmp_path):
    assert 'holds none of the runs' in compare('--work-dirs', tmp_path)
    work_dir(tmp_path, 'kat_t_karat_cifar10', [])
    assert 'never evaluated' in compare('--work-dirs', tmp_path)


def test_seeds_of_one_model_are_a_line_with_a_band(run_benchmark, tmp_path):
    for folder, score in (('vit_0', 40.0), ('vit_1', 44.0), ('kat_0', 43.0), ('kat_notes', 1.0)):
        work_dir(tmp_path / 'runs', folder, [score])
    assert run_benchmark('compare.py', 'cifar10', '--work-dirs', 'runs', '--out-dir', 'out') == 0
    runs = json.loads((tmp_path / 'out' / 'results.json').read_text())['runs']
    assert {title: run['top1'] for title, run in runs.items()} == {
        'ViT-T from scratch, seed 0': 40.0,
        'ViT-T from scratch, seed 1': 44.0,
        'KAT-T from scratch, seed 0': 43.0,
    }


@pytest.mark.parametrize('what, count', [('bccd', 4), ('camvid', 2), ('cifar10', 9)])
def test_results_of_earlier_versions_are_read(what, count, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from compare import COMPARISONS
    from runs import plot_curves, read_runs, short_name

    comparison = COMPARISONS[what]
    runs = read_runs(BENCHMARKS / 'results' / what / 'results.json', comparison.titles)
    assert len(runs) >= count
    assert all(title.startswith(tuple(comparison.titles.values())) for title in runs)
    key = short_name(comparison.metric) + '_curve'
    assert all(run[key] for run in runs.values())
    plot_curves(runs, [(key, 'x', 'y')], tmp_path / 'curves.png')
    assert mmcv.imread(tmp_path / 'curves.png').shape[1] > 400


@pytest.mark.parametrize('points, marker', [(2, 'o'), (40, None)])
def test_a_curve_of_few_points_shows_them(points, marker, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from matplotlib.axes import Axes
    from runs import plot_curves

    curve = [[step, 0.5 * step] for step in range(points)]
    with mock.patch.object(Axes, 'plot', autospec=True, side_effect=Axes.plot) as plot:
        plot_curves({'KAT': {'AP': curve}}, [('AP', 'x', 'y')], tmp_path / 'curves.png')
    assert plot.call_args.kwargs['marker'] == marker
