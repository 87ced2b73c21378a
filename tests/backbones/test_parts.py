"""Attention and feed-forward of somebody else's package in a KAT, by the contract of BlockSpec."""

import sys

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.layers import BlockSpec

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
# What a downstream user writes; it is imported as `custom_imports` would.
PACKAGE = '''
import torch
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module()
class MeanAttention(nn.Module):
    """Every token gets the mean of all tokens, through a linear map."""

    def __init__(self, channels, scale):
        super().__init__()
        self.proj = nn.Linear(channels, channels)
        self.scale = scale
        self.shared = nn.Parameter(torch.ones(channels))

    @classmethod
    def from_spec(cls, spec, scale=1.0):
        if spec.use_rel_pos or spec.window_size:
            raise ValueError('MeanAttention: it has neither windows nor relative positions')
        return cls(spec.embed_dims, scale)

    def forward(self, x, grid, attn_mask=None):
        return self.scale * self.shared * self.proj(x.mean(dim=1, keepdim=True)).expand_as(x)

    def share_with(self, first):
        self.shared = first.shared


@MODELS.register_module()
class GatedFeedForward(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.gate, self.value = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, channels)

    @classmethod
    def from_spec(cls, spec):
        return cls(spec.embed_dims, spec.feedforward_channels)

    def init_weights(self):
        for linear in (self.gate, self.value, self.out):
            nn.init.constant_(linear.bias, 0.25)

    def forward(self, x):
        return self.out(self.gate(x).sigmoid() * self.value(x))
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / 'their_parts.py').write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    import their_parts

    yield their_parts
    del sys.modules['their_parts']
    for name in ('MeanAttention', 'GatedFeedForward'):
        del MODELS.module_dict[name]


def build(**kwargs):
    torch.manual_seed(0)
    return KAT(ARCH, img_size=32, patch_size=8, drop_path_rate=0.1, **kwargs)


def test_parts_of_another_package_are_built_trained_and_share_what_they_say(package):
    model = build(
        attn_cfg=dict(type='MeanAttention', scale=2.0), ffn_cfg=dict(type='GatedFeedForward')
    )
    model.init_weights()
    assert {type(block.attn) for block in model.blocks} == {package.MeanAttention}
    assert all(block.attn.scale == 2.0 for block in model.blocks)
    assert len({id(block.attn.shared) for block in model.blocks}) == 1
    assert (model.blocks[2].mlp.out.bias == 0.25).all()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images, target = torch.randn(4, 3, 32, 32), torch.randn(4, 16)
    losses = []
    for _ in range(20):
        loss = (model(images)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_class_serves_as_type(package):
    model = build(ffn_cfg=dict(type=package.GatedFeedForward))
    assert type(model.blocks[0].mlp) is package.GatedFeedForward


def test_a_part_refuses_what_it_cannot_do(package):
    with pytest.raises(ValueError, match='MeanAttention: it has neither windows'):
        build(
            attn_cfg=dict(type='MeanAttention', _scope_='mmengine'),
            window_size=2,
            with_cls_token=False,
            out_type='featmap',
        )


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
