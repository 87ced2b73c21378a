import json

import cv2
import pytest
from tools_runner import ROOT, run_tool

from kat_mm.sample_data import SampleSettings, make_sample_data

TINY = """
_base_ = {base!r}
classes = tuple(f'class {{i}}' for i in range(10))
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64
        ),
        patch_size=8,
    ),
    head=dict(in_channels=32),
    train_cfg=None,
)
data = dict(
    data_root={data_root!r},
    metainfo=dict(classes=classes),
)
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader['dataset'] = dict(data_prefix='train', **data)
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
val_dataloader['dataset'] = dict(data_prefix='val', **data)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, save_best=None))
"""


@pytest.fixture(scope='module')
def work_dirs(tmp_path_factory):
    """A ViT from scratch, and a KAT that starts from it."""
    folder = tmp_path_factory.mktemp('cifar10')
    make_sample_data(['imagenet'], folder / 'data', SampleSettings(12, 10, 40, 40))
    images = folder / 'data' / 'imagenet'
    for path in images.rglob('*.JPEG'):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (32, 32)))
    runs = folder / 'runs'
    for base, run in (('vit_t_cifar10', 'vit_0'), ('kat_t_from_vit_cifar10', 'gelu_0')):
        config = folder / f'{base}.py'
        base = str(ROOT / 'configs' / f'{base}.py')
        config.write_text(TINY.format(base=base, data_root=str(images)))
        start = [] if run == 'vit_0' else [f'load_from={runs}/vit_0/epoch_1.pth']
        options = ['--cfg-options', 'randomness.seed=0', *start]
        result = run_tool('train.py', config, '--work-dir', runs / run, *options)
        assert result.status == 0, result.stderr
    return runs


def test_results_and_plots_come_from_the_runs_that_are_there(work_dirs, tmp_path):
    result = run_tool(
        '../benchmarks/conversion.py', '--work-dirs', work_dirs, '--out-dir', tmp_path / 'out'
    )
    assert result.status == 0, result.stderr
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    compared = run_tool(
        '../benchmarks/compare.py',
        'cifar10',
        '--work-dirs',
        work_dirs,
        '--out-dir',
        tmp_path / 'out2',
    )
    assert compared.status == 0, compared.stderr
    runs = json.loads((tmp_path / 'out2' / 'results.json').read_text())['runs']
    assert runs.keys() == {'ViT-T from scratch, seed 0', 'KAT-T from ViT-T, GELU start, seed 0'}
    conversion = results['conversion']['0']
    assert conversion['vit_top1'] == runs['ViT-T from scratch, seed 0']['top1']
    starts = conversion['starts']
    best, swish = starts['gelu (9, 8) on [-8, 8]'], starts['swish (5, 4) on [-3, 3]']
    assert best['agreement'] == 100 and best['top1'] == conversion['vit_top1']
    assert best['relative_l2'] < 1e-3 < swish['relative_l2']
    assert best['rms_error'] < 1e-3 < swish['rms_error']
    assert conversion['inputs'].keys() == {f'backbone.blocks.{i}.mlp.act' for i in range(2)}
    for name in ('out2/curves.png', 'out/preactivations.png'):
        assert cv2.imread(str(tmp_path / name)).shape[1] > 500


def test_a_folder_without_runs_is_refused(tmp_path):
    result = run_tool('../benchmarks/conversion.py', '--work-dirs', tmp_path)
    assert result.status == 1
    assert 'holds no trained ViT such as' in result.last_line
