"""benchmarks/detection.py, as a user runs it, at a small size."""

import json
from pathlib import Path
from types import SimpleNamespace

import mmcv
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import nn

ROOT = Path(__file__).parents[2]

SMALL = """
_base_ = {base!r}
arch = dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
model = dict(backbone=dict(arch=arch, global_attn_indices=(1,)), neck=dict(in_channels=32))
"""


@pytest.mark.slow
def test_models_take_turns_with_the_same_work_in_their_heads(run_benchmark, tmp_path):
    for kind in ('kat', 'vit'):
        base = ROOT / 'configs' / f'{kind}_t_mask_rcnn_sample.py'
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
    gpu, with_host = kat['train_gpu_ms_of_parts'], kat['train_ms_of_parts']
    assert sum(gpu.values()) == pytest.approx(kat['train_gpu_ms'])
    assert set(gpu) == set(with_host) == {'backbone', 'neck', 'heads', 'optimizer'}
    assert all(time > 0 for time in gpu.values())
    assert mmcv.imread(tmp_path / 'o' / 'speed.png').shape[1] > 500


def test_proposals_are_the_same_for_every_model_and_a_quarter_are_objects(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import detection

    batch = detection.random_batch(64, 1, 3)
    (boxes,) = proposals = detection.random_proposals(batch, 64, 40)
    head = SimpleNamespace(fc_cls=nn.Linear(2, 4), fc_reg=nn.Linear(2, 4))
    rpn = SimpleNamespace(predict_by_feat=lambda: 'its own')
    detection.fix_heads(
        SimpleNamespace(rpn_head=rpn, roi_head=SimpleNamespace(bbox_head=head)), proposals, 'cpu'
    )
    (found,) = rpn.predict_by_feat()
    assert torch.equal(found.bboxes, boxes)
    objects = batch['data_samples'][0].gt_instances.bboxes.tensor
    assert (bbox_overlaps(boxes, objects).max(dim=1).values[:10] > 0.5).all()
    assert head.fc_cls(torch.randn(5, 2)).argmax(dim=1).tolist() == [0] * 5
