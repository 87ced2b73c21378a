import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from kat_mm.backbones import KAT

LR, WEIGHT_DECAY, RATE = 1e-3, 0.05, 0.5
NUM_BLOCKS = 3


class Segmentor(nn.Module):
    def __init__(self, **backbone):
        super().__init__()
        arch = dict(embed_dims=16, num_layers=NUM_BLOCKS, num_heads=2, feedforward_channels=32)
        self.backbone = KAT(arch=arch, img_size=32, **backbone)
        self.decode_head = nn.Sequential(
            nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)
        )


def build(model, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY),
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg,
        ),
    ).optimizer


def settings(model, optimizer):
    """(learning rate, weight decay) of each parameter that is optimised, by name."""
    names = {param: name for name, param in model.named_parameters()}
    return {
        names[param]: (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for param in group['params']
    }


def expected_lr(name):
    """ViTDet's rule, written out: patches, then blocks, then all that comes behind."""
    if name.startswith(('backbone.patch_embed', 'backbone.pos_embed', 'backbone.cls_token')):
        return LR * RATE ** (NUM_BLOCKS + 1)
    for block in range(NUM_BLOCKS):
        if name.startswith(f'backbone.blocks.{block}.'):
            return LR * RATE ** (NUM_BLOCKS - block)
    assert name.startswith(('backbone.norm.', 'decode_head.'))
    return LR


def test_every_parameter_has_the_learning_rate_of_its_layer():
    model = Segmentor()
    found = settings(model, build(model, layer_decay_rate=RATE))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, (lr, _) in found.items():
        assert lr == pytest.approx(expected_lr(name)), name


def test_decay_from_the_last_block_gives_it_the_rate_of_the_heads_and_embeddings_that_of_block_0():
    model = Segmentor()
    found = settings(model, build(model, layer_decay_rate=RATE, layer_decay_from='last_block'))
    for name, (lr, _) in found.items():
        block = NUM_BLOCKS - 1
        if name.startswith('backbone.blocks.'):
            block = int(name.split('.')[2])
        elif name.startswith('backbone.') and 'norm' not in name:
            block = 0
        assert lr == pytest.approx(LR * RATE ** (NUM_BLOCKS - 1 - block)), name


def test_groups_of_the_backbone_can_be_told_from_the_others():
    model = Segmentor()
    names = {param: name for name, param in model.named_parameters()}
    groups = build(model, split_backbone=True).param_groups
    assert {group['in_backbone'] for group in groups} == {True, False}
    for group in groups:
        for param in group['params']:
            assert names[param].startswith('backbone.') == group['in_backbone']


def test_without_a_rate_all_learn_equally():
    model = Segmentor()
    assert {lr for lr, _ in settings(model, build(model)).values()} == {LR}


def test_weight_decay_is_for_matrices_alone():
    model = Segmentor()
    spared = {
        name
        for name, (_, weight_decay) in settings(model, build(model)).items()
        if weight_decay == 0
    }
    norms = ('norm1.', 'norm2.', 'backbone.norm.', 'decode_head.1.')
    ends = ('.bias', 'pos_embed', 'cls_token', 'weight_numerator', 'weight_denominator')
    assert spared == {
        name
        for name, _ in model.named_parameters()
        if name.endswith(ends) or any(norm in name for norm in norms)
    }
    others = {wd for name, (_, wd) in settings(model, build(model)).items() if name not in spared}
    assert others == {WEIGHT_DECAY}


def test_biases_may_decay_but_not_those_of_norms():
    model = Segmentor()
    decays = {
        name: wd for name, (_, wd) in settings(model, build(model, bias_decay_mult=1)).items()
    }
    assert decays['backbone.blocks.0.attn.qkv.bias'] == WEIGHT_DECAY
    assert decays['backbone.blocks.0.norm1.bias'] == decays['backbone.pos_embed'] == 0


def test_the_model_itself_may_be_the_backbone():
    model = Segmentor().backbone
    found = settings(model, build(model, layer_decay_rate=RATE))
    for name, (lr, _) in found.items():
        assert lr == pytest.approx(expected_lr(f'backbone.{name}')), name


def test_frozen_parameters_are_left_out():
    model = Segmentor(frozen_stages=1)
    found = settings(model, build(model, layer_decay_rate=RATE))
    frozen = ('patch_embed', 'pos_embed', 'cls_token', 'blocks.0.')
    assert found.keys() == {
        name
        for name, _ in model.named_parameters()
        if not name.startswith(tuple(f'backbone.{part}' for part in frozen))
    }


def test_the_longest_custom_key_counts_on_top_of_the_layer():
    model = Segmentor()
    custom_keys = {
        'backbone': dict(lr_mult=0.1),
        'backbone.blocks.1': dict(lr_mult=0.2, decay_mult=3.0),
    }
    found = settings(model, build(model, layer_decay_rate=RATE, custom_keys=custom_keys))
    for name, (lr, weight_decay) in found.items():
        factor = 1.0
        if name.startswith('backbone'):
            factor = 0.1
        if name.startswith('backbone.blocks.1.'):
            factor = 0.2
            assert weight_decay == pytest.approx(3 * WEIGHT_DECAY), name
        assert lr == pytest.approx(factor * expected_lr(name)), name


def test_parameters_alike_share_a_group():
    # One with and one without weight decay, for each depth: embeddings, blocks, the rest.
    model = Segmentor()
    assert len(build(model, layer_decay_rate=RATE).param_groups) == 2 * (NUM_BLOCKS + 2)
    assert len(build(model).param_groups) == 2


def test_training_moves_parameters_by_their_layers_learning_rate():
    # The first step of Adam is the learning rate itself, whatever the gradient is.
    model = nn.Module()
    model.backbone = Segmentor().backbone
    optimizer = build(model, layer_decay_rate=RATE)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    for name, param in model.named_parameters():
        if name.endswith('bias'):
            moved = (before[name] - param).abs().mean().item()
            assert moved == pytest.approx(expected_lr(name), rel=1e-3), name


@pytest.mark.parametrize(
    'paramwise_cfg, message',
    [
        (dict(norm_decay_mult=0.0), 'unknown keys norm_decay_mult; it takes layer_decay_rate'),
        (dict(layer_decay_rate=0.0), 'layer_decay_rate=0.0 must lie in'),
        (dict(layer_decay_rate=1.5), 'layer_decay_rate=1.5 must lie in'),
    ],
)
def test_settings_that_cannot_be_are_refused(paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(Segmentor(), **paramwise_cfg)
