"""benchmarks/detection.py, as a user runs it, at a small size."""

import json
from pathlib import Path

import mmcv
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.registry import MODELS
from torch import nn

from kat_mm.layers import SoftmaxAttention

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


@pytest.mark.parametrize('fast', [False, True])
def test_proposals_are_the_same_for_every_model_and_a_quarter_are_objects(monkeypatch, fast):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import detection
    import fixed_proposals

    cfg = detection.load_config(ROOT / 'configs' / 'kat_t_mask_rcnn_sample.py', 64)
    cfg.model.rpn_head.type = 'FixedFastRPNHead' if fast else 'FixedRPNHead'
    small = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    cfg.model.backbone.update(arch=small, global_attn_indices=(1,))
    cfg.model.neck.in_channels = 32
    model = MODELS.build(cfg.model)
    batch = detection.random_batch(64, 1, 3)
    (boxes,) = proposals = fixed_proposals.random_proposals(batch, 64, 40)
    fixed_proposals.fix_heads(model, proposals)
    features = model.extract_feat(torch.randn(1, 3, 64, 64))
    samples = model.data_preprocessor(batch, training=True)['data_samples']
    head = model.rpn_head.train()
    losses, found = head.loss_and_predict(features, samples, proposal_cfg=head.test_cfg)
    assert losses.keys() == {'loss_rpn_cls', 'loss_rpn_bbox'}
    assert torch.equal(found[0].bboxes, boxes)
    with torch.no_grad():
        (found,) = head.eval().predict(features, samples)
    assert torch.equal(found.bboxes, boxes)
    objects = batch['data_samples'][0].gt_instances.bboxes.tensor
    assert (bbox_overlaps(boxes, objects).max(dim=1).values[:10] > 0.5).all()
    classify = model.roi_head.bbox_head.fc_cls
    scores = classify(torch.randn(5, classify.in_features))
    assert scores.argmax(dim=1).tolist() == [0] * 5


def test_attention_with_a_bias_for_each_pair_is_the_same_function(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import bias_attention

    torch.manual_seed(0)
    attention = SoftmaxAttention(32, 2, rel_pos_size=(4, 4), window_size=4)
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        nn.init.normal_(table)
    x = torch.randn(2, 60, 32)
    expected = attention(x, (6, 10))
    for kind in (bias_attention.ExplicitBiasAttention, bias_attention.MatrixAttention):
        other = kind(32, 2, rel_pos_size=(4, 4), window_size=4)
        other.load_state_dict(attention.state_dict())
        assert (other(x, (6, 10)) - expected).abs().max() < 1e-5
