"""The contract of BlockSpec: what parts are told, and where they are found."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, Registry
from outside import GatedFeedForward
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.layers import BlockSpec

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)


def build(**kwargs):
    torch.manual_seed(0)
    return KAT(ARCH, img_size=32, patch_size=8, drop_path_rate=0.1, **kwargs)


def test_a_class_serves_as_type():
    model = build(ffn_cfg=dict(type=GatedFeedForward))
    assert type(model.blocks[0].mlp) is GatedFeedForward


def test_every_part_is_told_where_it_stands():
    class Told(nn.Module):
        @classmethod
        def from_spec(cls, spec):
            part = cls()
            part.spec = spec
            return part

    model = build(
        attn_cfg=dict(type=Told),
        ffn_cfg=dict(type=Told),
        window_size=2,
        global_attn_indices=(1,),
        use_rel_pos=True,
        with_cls_token=False,
        out_type='featmap',
    )
    for index, block in enumerate(model.blocks):
        assert (
            block.attn.spec
            == block.mlp.spec
            == BlockSpec(
                embed_dims=16,
                num_heads=2,
                feedforward_channels=32,
                grid_size=(4, 4),
                num_extra_tokens=0,
                window_size=0 if index == 1 else 2,
                use_rel_pos=True,
            )
        )
        assert block.attn.spec.attended_grid == ((4, 4) if index == 1 else (2, 2))


def test_a_part_of_the_default_scope_is_found_behind_the_root():
    elsewhere = Registry('model', parent=MODELS, scope='elsewhere')
    try:

        @elsewhere.register_module()
        class Nothing(nn.Module):
            @classmethod
            def from_spec(cls, spec):
                return cls()

            def forward(self, x):
                return 0 * x

        with DefaultScope.overwrite_default_scope('elsewhere'):
            model = build(ffn_cfg=dict(type='Nothing'))
    finally:
        del MODELS.children['elsewhere']
    assert type(model.blocks[0].mlp) is Nothing


def test_an_option_that_a_part_does_not_have_is_named():
    with pytest.raises(TypeError, match="'num_group'"):
        build(ffn_cfg=dict(type='GRKAN', num_group=4))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(ffn_cfg=dict(type='SoftmaxAttention')),
            r"ffn_cfg has type='SoftmaxAttention', whose forward takes \(x, grid, attn_mask\); "
            r'that of a feed-forward takes \(x\)',
        ),
        (
            dict(attn_cfg=dict(type='MLP')),
            r"attn_cfg has type='MLP', whose forward takes \(x\); "
            r'that of an attention takes \(x, grid, attn_mask\)',
        ),
    ],
)
def test_a_part_in_the_place_of_the_other_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**cfg)


def test_a_class_that_builds_no_module_is_refused():
    class Empty(nn.Module):
        @classmethod
        def from_spec(cls, spec):
            cls()

    with pytest.raises(ValueError, match='whose from_spec returns None'):
        build(ffn_cfg=dict(type=Empty))
