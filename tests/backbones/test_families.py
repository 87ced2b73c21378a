"""Every family of configs/_base_/backbones against timm, from files of every layout that it has.

All parameters are random and of order one, so that a part that is left out or swapped shows. Keys
and shapes are those of the published files, of which depths alone are cut.
"""

import functools
import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from safetensors.torch import save_file
from timm.layers import pos_embed_sincos
from torch import nn

from kat_mm.backbones import KAT, load_pretrained
from kat_mm.backbones.archs import resolve_arch
from kat_mm.checkpoints import to_official
from kat_mm.errors import UserError
from kat_mm.layers import rope

BACKBONES = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'backbones'
DEPTH = 2


def options_of(config, **changes):
    """What a config of a family gives to the backbone, of few blocks."""
    cfg = Config.fromfile(BACKBONES / f'{config}.py')
    backbone = Config(dict(backbone=cfg.backbone))
    backbone.merge_from_dict({f'backbone.{key}': value for key, value in changes.items()})
    options = dict(backbone.backbone)
    options['arch'] = {**resolve_arch(options['arch']), 'num_layers': DEPTH}
    assert options.pop('type') == 'KAT'
    return {**options, 'out_type': 'featmap'}


def build(config, **changes):
    return KAT(**options_of(config, **changes)).double().eval()


@functools.cache
def theirs(name, **kwargs):
    """timm's model of few blocks, in float64, with random parameters of order one."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=DEPTH, num_classes=0, **kwargs).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.dim() == 2 else 1
            nn.init.normal_(parameter, std=scale)
            if parameter.dim() == 1 and re.search(r'(norm\w*|gamma_?\d?|gamma)(\.weight)?$', key):
                parameter.add_(1)
    return model


# Config, what is changed in it, and timm's model of the same.
FAMILIES = {
    'DINOv2 S': ('dinov2', dict(arch='small'), 'vit_small_patch14_dinov2', {}),
    'DINOv2 S with registers': (
        'dinov2_registers',
        dict(arch='small'),
        'vit_small_patch14_reg4_dinov2',
        {},
    ),
    'DINOv3 S': ('dinov3', dict(arch='small'), 'vit_small_patch16_dinov3_qkvb', {}),
    'DINOv3 B': ('dinov3', {}, 'vit_base_patch16_dinov3', {}),
    'DINOv3 L': ('dinov3', dict(arch='large'), 'vit_large_patch16_dinov3', {}),
    'DINOv3 S+': ('dinov3_plus', {}, 'vit_small_plus_patch16_dinov3_qkvb', {}),
    'EVA-02 S': (
        'eva02',
        {
            'arch': dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1024),
            'ffn_cfg.inner_norm': False,
        },
        'eva02_small_patch14_224',
        {},
    ),
    'EVA-02 B': ('eva02', {}, 'eva02_base_patch14_224', {}),
    'SigLIP B': ('siglip', {'ffn_cfg.act': 'gelu'}, 'vit_base_patch16_siglip_224', {}),
    'SigLIP 2 B by tanh': (
        'siglip',
        {},
        'vit_base_patch16_siglip_224',
        dict(act_layer='gelu_tanh'),
    ),
    'OpenCLIP B': ('clip', {}, 'vit_base_patch16_clip_224', {}),
    'OpenAI CLIP B': (
        'clip',
        {'ffn_cfg.act': 'quick_gelu'},
        'vit_base_patch16_clip_quickgelu_224',
        {},
    ),
    'DeiT-III S': ('deit3', dict(arch='small'), 'deit3_small_patch16_224', {}),
    'MAE B': ('mae', {}, 'vit_base_patch16_224.mae', {}),
}


def images(size, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def features(model, x):
    """(B, C, H, W) of the last block, of ours or timm's."""
    if isinstance(model, KAT):
        return model(x)[0]
    tokens = model.forward_features(x)[:, model.num_prefix_tokens :]
    grid = [side // model.patch_embed.patch_size[0] for side in x.shape[2:]]
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def distance(got, want):
    return ((got - want).norm() / want.norm()).item()


def with_our_tables(model, monkeypatch):
    """timm's model, turning by tables that are computed in float64."""
    if not hasattr(model, 'rope') or model.rope is None:
        return model
    heads = model.blocks[0].attn.num_heads
    dinov3 = isinstance(model.rope, pos_embed_sincos.RotaryEmbeddingDinoV3)
    base = 100.0 if dinov3 else 10000.0
    count = model.embed_dim // heads // 4
    cos, sin = rope.rotary_tables(
        model.patch_embed.grid_size,
        0,
        0,
        [base ** (k / count) for k in range(count)],
        'centers' if dinov3 else 'indices',
        None if dinov3 else (16, 16),
        torch.float64,
        'cpu',
    )
    # timm has both channels of a plane: halves, or neighbours.
    sin, cos = (t.tile(1, 2) if dinov3 else t.repeat_interleave(2, dim=1) for t in (sin, cos))
    table = torch.cat([sin, cos], dim=-1)
    monkeypatch.setattr(model.rope, 'get_embed', lambda *_, **__: table)
    return model


@pytest.mark.parametrize(
    'family',
    [pytest.param(name, marks=[pytest.mark.slow] * name.endswith(' L')) for name in FAMILIES],
)
def test_features_are_timms(family, tmp_path, monkeypatch):
    config, changes, name, kwargs = FAMILIES[family]
    reference = theirs(name, **{'img_size': options_of(config, **changes)['img_size'], **kwargs})
    save_file(reference.state_dict(), tmp_path / 'vit.safetensors')
    model = build(config, **changes)
    load_pretrained(model, tmp_path / 'vit.safetensors')
    x = images(reference.patch_embed.img_size)
    got = features(model, x)
    assert distance(got, features(reference, x)) < 1e-6
    assert distance(got, features(with_our_tables(reference, monkeypatch), x)) < 1e-10


def test_rope_and_positions_of_other_sizes_are_timms(tmp_path):
    for family, kwargs in (('DINOv3 S', {}), ('DINOv2 S with registers', dict(img_size=518))):
        config, changes, name, _ = FAMILIES[family]
        reference = theirs(name, dynamic_img_size=True, **kwargs)
        save_file(reference.state_dict(), tmp_path / 'vit.safetensors')
        model = build(config, **changes)
        load_pretrained(model, tmp_path / 'vit.safetensors')
        patch = model.patch_embed.patch_size
        x = images((5 * patch, 7 * patch))
        # Positions are resized in float32 by both, in different orders.
        assert distance(features(model, x), features(reference, x)) < 1e-6


# Layouts of the original projects and of transformers, from the names in timm's


def renamed(state, *rules):
    """Each rule is a pattern and its replacement, applied to every name, one after the other."""
    names = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        names[new] = value
    return names


def split(state, pattern, *names):
    """Cut rows of the entries that match: the group of the name is replaced by each of names."""
    for key in [key for key in state if re.search(pattern, key)]:
        value = state.pop(key)
        for name, part in zip(names, value.chunk(len(names)), strict=True):
            state[re.sub(pattern, name, key)] = part.contiguous()
    return state


def random_like(value):
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(2)).to(value)


def dinov2_authors(state, chunks=False):
    """With the position of the class token apart, which timm adds to the token."""
    state = dict(state, mask_token=torch.zeros(1, state['cls_token'].shape[-1]).double())
    if 'reg_token' in state:
        first = random_like(state['cls_token'])
        state['register_tokens'] = state.pop('reg_token')
        state['cls_token'] = state['cls_token'] - first
        state['pos_embed'] = torch.cat([first, state['pos_embed']], dim=1)
    return renamed(state, (r'^blocks\.', 'blocks.0.')) if chunks else state


def dinov3_authors(state):
    """One bias, of which a mask leaves out the keys'; periods; gate and value as w1 and w2."""
    state = dict(state, mask_token=torch.zeros(1, state['cls_token'].shape[-1]).double())
    width = state['cls_token'].shape[-1]
    for index in range(DEPTH):
        attn = f'blocks.{index}.attn'
        q, v = (state.pop(f'{attn}.{name}_bias', torch.zeros(width).double()) for name in 'qv')
        state[f'{attn}.qkv.bias'] = torch.cat([q, random_like(q), v])
        state[f'{attn}.qkv.bias_mask'] = torch.ones(3, width).double()
        state[f'{attn}.qkv.bias_mask'][1] = 0
        state[f'{attn}.qkv.bias_mask'] = state[f'{attn}.qkv.bias_mask'].flatten()
    state['rope_embed.periods'] = 100 ** (torch.arange(16) / 16)
    return renamed(
        state,
        ('reg_token', 'storage_tokens'),
        (r'gamma_([12])', r'ls\1.gamma'),
        ('fc1_g', 'w1'),
        ('fc1_x', 'w2'),
        *([('fc2', 'w3')] if 'blocks.0.mlp.fc1_g.weight' in state else []),
    )


def transformers_dinov2(state):
    state = dinov2_authors(state)
    state = split(state, r'attn\.qkv\.', 'attn.query.', 'attn.key.', 'attn.value.')
    return renamed(
        state,
        (r'^(cls_token|mask_token|register_tokens)', r'embeddings.\1'),
        (r'^pos_embed', 'embeddings.position_embeddings'),
        (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
        (r'^norm\.', 'layernorm.'),
        (r'^blocks\.', 'encoder.layer.'),
        (r'attn\.proj', 'attention.output.dense'),
        (r'attn\.', 'attention.attention.'),
        (r'\.ls([12])\.gamma', r'.layer_scale\1.lambda1'),
    )


def transformers_dinov3(state):
    state = dict(state)
    gated = 'blocks.0.mlp.fc1_g.weight' in state
    state = split(state, r'attn\.qkv\.', 'attn.q_proj.', 'attn.k_proj.', 'attn.v_proj.')
    return renamed(
        state,
        (r'^cls_token', 'embeddings.cls_token'),
        (r'^reg_token', 'embeddings.register_tokens'),
        (r'^patch_embed\.proj', 'embeddings.patch_embeddings'),
        (r'^blocks\.', 'layer.'),
        (r'attn\.proj', 'attention.o_proj'),
        (r'attn\.([qv])_bias', r'attention.\1_proj.bias'),
        (r'attn\.', 'attention.'),
        (r'gamma_([12])', r'layer_scale\1.lambda1'),
        ('fc1_g', 'gate_proj'),
        ('fc1_x' if gated else 'fc1', 'up_proj'),
        ('fc2', 'down_proj'),
    )


def transformers_vit(state, prefix='vit.'):
    state = split(dict(state), r'attn\.qkv\.', 'attn.query.', 'attn.key.', 'attn.value.')
    state = renamed(
        state,
        (r'^cls_token', 'embeddings.cls_token'),
        (r'^pos_embed', 'embeddings.position_embeddings'),
        (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
        (r'^norm\.', 'layernorm.'),
        (r'^blocks\.', 'encoder.layer.'),
        (r'attn\.proj', 'attention.output.dense'),
        (r'attn\.', 'attention.attention.'),
        (r'norm1', 'layernorm_before'),
        (r'norm2', 'layernorm_after'),
        (r'mlp\.fc1', 'intermediate.dense'),
        (r'mlp\.fc2', 'output.dense'),
    )
    state = {prefix + key: value for key, value in state.items()}
    return {**state, 'classifier.weight': torch.ones(10, 768), 'classifier.bias': torch.ones(10)}


def of_version_5(layout):
    """State dicts of models of transformers 5; its files have the names of version 4."""

    def renamed_layout(state):
        return renamed(
            layout(state),
            (r'^layer\.', 'model.layer.'),
            (r'attention\.attention\.(query|key|value)', lambda m: f'attention.{m[1][0]}_proj'),
            (r'attention\.output\.dense', 'attention.o_proj'),
            (r'vit\.encoder\.layer\.', 'vit.layers.'),
            (r'intermediate\.dense', 'mlp.fc1'),
            (r'(layers\.\d+)\.output\.dense', r'\1.mlp.fc2'),
        )

    renamed_layout.__name__ = f'{layout.__name__}_5'
    return renamed_layout


def transformers_clip(state):
    state = split(
        dict(state), r'attn\.qkv\.', 'self_attn.q_proj.', 'self_attn.k_proj.', 'self_attn.v_proj.'
    )
    for name in ('cls_token', 'pos_embed'):
        if name in state:
            state[name] = state[name].squeeze() if name == 'cls_token' else state[name][0]
    state = {key: value for key, value in state.items() if not key.startswith('attn_pool.')}
    state = renamed(
        state,
        (r'^cls_token', 'embeddings.class_embedding'),
        (r'^pos_embed', 'embeddings.position_embedding.weight'),
        (r'^patch_embed\.proj', 'embeddings.patch_embedding'),
        (r'^norm_pre', 'pre_layrnorm'),
        (r'^norm\.', 'post_layernorm.'),
        (r'^blocks\.', 'encoder.layers.'),
        (r'\.attn\.proj', '.self_attn.out_proj'),
        (r'norm([12])', r'layer_norm\1'),
    )
    text = {'text_model.encoder.layers.0.self_attn.q_proj.weight': torch.ones(2, 2)}
    head = {'head.probe': torch.ones(1, 1, 768)} if 'pre_layrnorm.weight' not in state else {}
    tower = {f'vision_model.{key}': value for key, value in {**state, **head}.items()}
    return {**text, **tower, 'logit_scale': torch.ones(())}


def openai(state):
    state = dict(state, cls_token=state['cls_token'].flatten(), pos_embed=state['pos_embed'][0])
    state = renamed(
        state,
        (r'^cls_token', 'class_embedding'),
        (r'^pos_embed', 'positional_embedding'),
        (r'^patch_embed\.proj', 'conv1'),
        (r'^norm_pre', 'ln_pre'),
        (r'^norm\.', 'ln_post.'),
        (r'^blocks\.', 'transformer.resblocks.'),
        (r'norm([12])', r'ln_\1'),
        (r'attn\.qkv\.', 'attn.in_proj_'),
        (r'attn\.proj', 'attn.out_proj'),
        (r'fc1', 'c_fc'),
        (r'fc2', 'c_proj'),
    )
    text = {'transformer.resblocks.0.ln_1.weight': torch.ones(512)}
    image = {f'visual.{key}': value for key, value in state.items()}
    return {**text, **image, 'visual.proj': torch.ones(768, 512), 'logit_scale': torch.ones(())}


def open_clip_trunk(state):
    return {
        'text.transformer.resblocks.0.ln_1.weight': torch.ones(512),
        **{f'visual.trunk.{key}': value for key, value in state.items()},
    }


def eva02_authors(state):
    """Biases beside the projections, tables of rotary positions, and the norm by its first name."""
    angles = torch.ones(256, 64)
    tables = {
        f'{name}rope.freqs_{part}': angles
        for name in ('', 'blocks.0.attn.', 'blocks.1.attn.')
        for part in ('cos', 'sin')
    }
    pretraining = {'mask_token': torch.ones(1, 1, 768), 'lm_head.weight': torch.ones(1024, 768)}
    state = renamed(
        state,
        (r'(q|v)_proj\.bias', r'\1_bias'),
        (r'fc1_g', 'w1'),
        (r'fc1_x', 'w2'),
        (r'fc2', 'w3'),
        (r'mlp\.norm', 'mlp.ffn_ln'),
    )
    return {**state, **tables, **pretraining}


def deit3_authors(state):
    return renamed(state, (r'ls([12])\.gamma', r'gamma_\1'))


def mae_authors(state):
    decoder = {
        'mask_token': torch.ones(1, 1, 512),
        'decoder_pos_embed': torch.ones(1, 197, 512),
        'decoder_blocks.0.norm1.weight': torch.ones(512),
        'decoder_norm.bias': torch.ones(512),
    }
    return {**state, **decoder}


def chunked(state):
    return dinov2_authors(state, chunks=True)


LAYOUTS = [
    ('DINOv2 S', dinov2_authors),
    ('DINOv2 S', transformers_dinov2),
    ('DINOv2 S with registers', dinov2_authors),
    ('DINOv2 S with registers', chunked),
    ('DINOv2 S with registers', transformers_dinov2),
    ('DINOv3 S', dinov3_authors),
    ('DINOv3 S', transformers_dinov3),
    ('DINOv3 B', dinov3_authors),
    ('DINOv3 S+', dinov3_authors),
    ('DINOv3 S+', transformers_dinov3),
    ('EVA-02 B', eva02_authors),
    ('SigLIP B', open_clip_trunk),
    ('SigLIP B', transformers_clip),
    ('OpenCLIP B', openai),
    ('OpenCLIP B', transformers_clip),
    ('DeiT-III S', deit3_authors),
    ('MAE B', mae_authors),
    ('MAE B', transformers_vit),
    *(
        (family, of_version_5(layout))
        for family, layout in (
            ('DINOv2 S', transformers_dinov2),
            ('DINOv3 S+', transformers_dinov3),
            ('MAE B', transformers_vit),
        )
    ),
]


@pytest.mark.parametrize('family, layout', LAYOUTS, ids=lambda v: getattr(v, '__name__', v))
def test_other_layouts_are_the_same_model(family, layout, tmp_path):
    config, changes, name, kwargs = FAMILIES[family]
    reference = theirs(name, **{'img_size': options_of(config, **changes)['img_size'], **kwargs})
    results = []
    for index, state in enumerate((reference.state_dict(), layout(reference.state_dict()))):
        torch.save(state, tmp_path / f'{index}.pth')
        model = build(config, **changes)
        load_pretrained(model, tmp_path / f'{index}.pth')
        results.append(features(model, images((64, 48))))
    # Periods and sums in other orders are the only differences.
    assert distance(results[1], results[0]) < (1e-6 if 'rope_embed' in str(state.keys()) else 1e-12)


def test_rounded_periods_of_a_file_are_computed_with(tmp_path):
    config, changes, name, _ = FAMILIES['DINOv3 S']
    state = dinov3_authors(theirs(name, img_size=224).state_dict())
    state['rope_embed.periods'] = state['rope_embed.periods'].bfloat16()
    torch.save(state, tmp_path / 'dinov3.pth')
    model, plain = build(config, **changes), build(config, **changes)
    load_pretrained(model, tmp_path / 'dinov3.pth')
    assert model.blocks[1].attn.rope.periods == tuple(state['rope_embed.periods'].double().tolist())
    del state['rope_embed.periods']
    torch.save(state, tmp_path / 'dinov3.pth')
    load_pretrained(plain, tmp_path / 'dinov3.pth')
    assert distance(features(model, images((64, 48))), features(plain, images((64, 48)))) > 1e-4


@pytest.mark.parametrize('layout', [transformers_vit, of_version_5(transformers_vit)])
def test_the_head_that_transformers_has_beside_the_backbone_is_the_head(layout):
    state = layout(theirs('vit_base_patch16_224.mae', img_size=224).state_dict())
    official, left_out = to_official(state, 'FILE')
    assert torch.equal(official['head.weight'], state['classifier.weight'])
    assert torch.equal(official['head.bias'], state['classifier.bias']) and not left_out


def test_positions_of_registers_are_added_to_them(tmp_path):
    reference = theirs('test_vit2', img_size=64)  # a register, no class token: 17 positions
    torch.save(reference.state_dict(), tmp_path / 'vit.pth')
    arch = dict(embed_dims=64, num_layers=DEPTH, num_heads=2, feedforward_channels=192)
    options = dict(with_cls_token=False, num_registers=1, layer_scale=1.0, img_size=64)
    options.update(arch=arch, ffn_cfg=dict(type='MLP'), out_type='featmap', final_norm=False)
    model = KAT(**options).double().eval()
    load_pretrained(model, tmp_path / 'vit.pth')
    x = images((64, 64))
    assert distance(features(model, x), features(reference, x)) < 1e-12


def test_norms_without_a_bias_are_refused_since_another_kind_has_none(tmp_path):
    state = theirs('test_vit4', img_size=64).state_dict()  # with RMSNorm
    torch.save(state, tmp_path / 'vit.pth')
    arch = dict(embed_dims=96, num_layers=DEPTH, num_heads=3, feedforward_channels=288)
    options = dict(with_cls_token=False, num_registers=1, layer_scale=1.0, img_size=64)
    options.update(arch=arch, ffn_cfg=dict(type='MLP'), out_type='featmap', final_norm=False)
    model = KAT(**options)
    with pytest.raises(UserError, match=r'RMSNorm is: it lacks blocks\.\*\.norm1\.bias'):
        load_pretrained(model, tmp_path / 'vit.pth')
    nn.init.ones_(model.blocks[0].norm1.bias)
    load_pretrained(model, tmp_path / 'vit.pth', ignore=r'.*norm\w*\.bias')
    assert not model.blocks[0].norm1.bias.any()


@pytest.mark.parametrize(
    'family, changes, words',
    [
        ('DINOv3 S', dict(num_registers=0), 'does not compute: reg_token.*num_registers'),
        ('DINOv3 S', {'attn_cfg.qkv_bias': False}, r'attn\.qkv\.bias.*qkv_bias'),
        ('DINOv3 S', dict(with_pos_embed=True), 'lacks .*pos_embed.*with_pos_embed'),
        ('OpenCLIP B', dict(pre_norm=False), r'does not compute: norm_pre.*pre_norm'),
        ('MAE B', dict(pre_norm=True), r'lacks .*norm_pre.*pre_norm'),
        ('SigLIP B', dict(with_cls_token=True), 'lacks .*cls_token.*with_cls_token'),
        ('EVA-02 B', {'ffn_cfg.inner_norm': False}, r'mlp\.norm.*inner_norm'),
        ('EVA-02 B', dict(final_norm=True), r'lacks .*norm\.weight.*fc_norm.*final_norm'),
        (
            'DINOv3 S+',
            {'ffn_cfg.type': 'MLP'},
            r'fc1.weight: \[3072, 384\].*\[1536, 384\].*ffn_cfg',
        ),
        ('DINOv2 S', dict(arch='base'), 'is a ViT of width 384 .*has width 768'),
    ],
)
def test_a_part_that_one_of_both_lacks_is_refused_with_its_option(family, changes, words, tmp_path):
    config, own, name, kwargs = FAMILIES[family]
    reference = theirs(name, **{'img_size': options_of(config)['img_size'], **kwargs})
    torch.save(reference.state_dict(), tmp_path / 'vit.pth')
    with pytest.raises(UserError, match=f'vit.pth .*{words}'):
        load_pretrained(build(config, **{**own, **changes}), tmp_path / 'vit.pth')


def test_authors_tables_of_rotary_positions_ask_for_them(tmp_path):
    config, changes, name, _ = FAMILIES['EVA-02 B']
    torch.save(eva02_authors(theirs(name, img_size=224).state_dict()), tmp_path / 'eva.pth')
    with pytest.raises(UserError, match=r'does not compute: .*attn\.rope.*rope=\.\.\.'):
        load_pretrained(build(config, **changes, **{'attn_cfg.rope': None}), tmp_path / 'eva.pth')
