"""benchmarks/detection.py, as a user runs it, at a small size."""

import json
from pathlib import Path

import mmcv
import pytest

SMALL = """
_base_ = {base!r}
arch = dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
model = dict(backbone=dict(arch=arch, global_attn_indices=(1,)), neck=dict(in_channels=32))
"""


def test_models_take_turns_with_the_same_work_in_their_heads(run_benchmark, tmp_path):
    for kind in ('kat', 'vit'):
        base = Path(__file__).parents[2] / 'configs' / f'{kind}_t_mask_rcnn_sample.py'
        (tmp_path / f'{kind}_small.py').write_text(SMALL.format(base=str(base)))
    size = ['--size', '64', '--batch-size', '1', '--rounds', '3', '--steps', '1']
    assert run_benchmark('detection.py', '--config', 'kat_small.py', *size, '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    kat, vit, explicit, matrix = results['models'].values()
    assert kat['detections'] > 0
    assert kat['detections'] == vit['detections'] == explicit['detections'] == matrix['detections']
    comparison = results['comparison']
    for name, other in (('over ViT', vit), ('over explicit bias', explicit)):
        ratio = other['train_ms']['median'] / kat['train_ms']['median']
        assert comparison[f'training speed {name}']['ratio'] == pytest.approx(ratio, abs=1e-3)
    assert all(time > 0 for time in kat['train_gpu_ms_of_parts'].values())
    assert mmcv.imread(tmp_path / 'o' / 'speed.png').shape[1] > 500
