"""Where mmdet's heads compute in float32 under autocast."""

import pytest
import torch
from mmcv.ops import multi_scale_deform_attn
from mmdet.models.losses import FocalLoss
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS, init_default_scope
from small_configs import CONFIGS, load, shrink

from kat_mm.engine.float32_boxes import keep_boxes_in_float32


@pytest.fixture
def dtypes(monkeypatch):
    """Of what focal loss and deformable attention get: mmcv's do not know bfloat16 on a GPU."""
    found = {'loss': set(), 'sampled': set(), 'locations': set()}
    loss, sample = FocalLoss.forward, multi_scale_deform_attn.multi_scale_deformable_attn_pytorch

    def spy_loss(self, pred, *args, **kwargs):
        found['loss'].add(pred.dtype)
        return loss(self, pred, *args, **kwargs)

    def spy_sample(value, shapes, locations, weights):
        found['sampled'].add(value.dtype)
        found['locations'].add(locations.dtype)
        return sample(value, shapes, locations, weights)

    monkeypatch.setattr(FocalLoss, 'forward', spy_loss)
    monkeypatch.setattr(multi_scale_deform_attn, 'multi_scale_deformable_attn_pytorch', spy_sample)
    return found


def load_named(name):
    return load(CONFIGS[0].with_name(f'{name}.py'))


def build():
    torch.manual_seed(0)
    cfg = load_named('kat_s_dino_coco')
    shrink(cfg)
    model = MODELS.build(cfg.model)
    model.init_weights()  # mmdet's embeddings of levels are what the memory held before
    return model


def losses(model, device='cpu'):
    data = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=80)
    data = model.data_preprocessor(data, True)
    with torch.autocast(device, dtype=torch.bfloat16):
        return model.parse_losses(model(**data, mode='loss'))[1]


def test_queries_and_deformable_attention_stay_in_float32(dtypes, one_thread):
    model = build()
    losses(model)
    assert torch.bfloat16 in dtypes['loss'] and dtypes['sampled'] == {torch.bfloat16}
    for kinds in dtypes.values():
        kinds.clear()
    keep_boxes_in_float32(model)
    assert all(value.isfinite() for value in losses(model).values())
    assert all(kinds == {torch.float32} for kinds in dtypes.values())


def test_what_queries_predict_is_float32_without_branches_too(one_thread):
    init_default_scope('mmdet')
    head = MODELS.build(dict(type='DETRHead', num_classes=3, embed_dims=8))
    keep_boxes_in_float32(head)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = head(torch.zeros(2, 1, 5, 8))
    assert [x.dtype for x in found] == [torch.float32] * 2


@pytest.mark.gpu
@pytest.mark.filterwarnings('error:.*does not support torch.bfloat16')
def test_dino_trains_in_bfloat16_on_a_gpu():
    model = build().cuda()
    keep_boxes_in_float32(model)
    assert all(value.isfinite() for value in losses(model, 'cuda').values())


def test_configs_with_deformable_attention_have_the_hook():
    for name in ('kat_s_dino_coco', 'kat_s_mask2former_instance_coco', 'kat_s_mask2former_ade20k'):
        assert 'Float32BoxesHook' in [hook.type for hook in load_named(name).custom_hooks], name
