"""Layouts of checkpoints, recognised by their keys, and what turns each into the official KAT's.

The official layout is the one of KAT's published models and of this project's backbone:
``cls_token``, ``pos_embed``, ``patch_embed.proj.*``, ``blocks.{i}.{norm1,attn.qkv,attn.proj,norm2,
mlp.act1,mlp.fc1,mlp.act2,mlp.fc2}.*``, ``norm.*``, ``head.*``. A ViT has no act1 and act2.
"""

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kat_mm.errors import UserError

from .state_dict import keep_entries

State = dict[str, Tensor]
_logger = logging.getLogger(__name__)


class Layout(NamedTuple):
    """A layout of checkpoints.

    Attributes:
        title: What a user calls it.
        keys: Keys that are in every such file, alone or with others.
        to_official: Turns a state dict of this layout into the official one.
    """

    title: str
    keys: tuple[str, ...]
    to_official: Callable[[State], State]


def rename(state: State, rules: dict[str, str]) -> State:
    """Rename keys: each gets the first rule (pattern to replacement) that matches all of it."""
    renamed = OrderedDict()
    for key, value in state.items():
        for pattern, replacement in rules.items():
            key, matches = re.subn(f'^(?:{pattern})$', replacement, key)
            if matches:
                break
        renamed[key] = value
    renamed._metadata = getattr(state, '_metadata', {})
    return renamed


def _from_flashkat(state: State) -> State:
    return rename(state, {r'(.*\.act[12])\.(numerator|denominator)_v': r'\1.weight_\2'})


def _from_timm(state: State) -> State:
    """DeiT, DeiT-III, MAE, DINOv2, timm: the official keys, and what these models have besides."""
    registers = state.keys() & {'reg_token', 'register_tokens'}
    if registers:
        raise UserError(
            f'it has register tokens ({registers.pop()}), which KAT lacks: without them the '
            'features are others. Take the model without registers'
        )
    state = keep_entries(state, lambda key: not re.match(r'decoder_|mask_token$', key))
    for key in list(state):
        # LayerScale: gamma * (W x + b) = (gamma W) x + gamma b
        scale = re.fullmatch(r'(blocks\.\d+\.)(?:ls([12])\.gamma|gamma_([12]))', key)
        if scale:
            gamma = state.pop(key)
            linear = scale[1] + {'1': 'attn.proj', '2': 'mlp.fc2'}[scale[2] or scale[3]]
            state[f'{linear}.weight'] = gamma[:, None] * state[f'{linear}.weight']
            state[f'{linear}.bias'] = gamma * state[f'{linear}.bias']
    if state.pop('dist_token', None) is not None:
        _logger.warning(
            'The distillation token of the checkpoint is left out, which KAT lacks: its features '
            'differ from those of the distilled model'
        )
        position = state['pos_embed']  # class token, distillation token, patches
        state['pos_embed'] = torch.cat([position[:, :1], position[:, 2:]], dim=1)
    if 'cls_token' in state and 'grid_size' not in state._metadata.get('', {}):
        position = state['pos_embed']
        if math.isqrt(position.shape[1]) ** 2 == position.shape[1]:
            # DeiT-III adds positions to the patches alone.
            state['pos_embed'] = torch.cat([torch.zeros_like(position[:, :1]), position], dim=1)
    return state


def _from_augreg(state: State) -> State:
    """Flax names and axes, ``.npz``: linear kernels are (in, out), convolutions (H, W, in, out)."""
    state = OrderedDict(state)
    official = OrderedDict()

    def take(name, to, axes=lambda value: value):
        if name in state:
            official[to] = axes(state.pop(name)).contiguous()

    take('cls', 'cls_token')
    take('Transformer/posembed_input/pos_embedding', 'pos_embed')
    take('embedding/kernel', 'patch_embed.proj.weight', lambda value: value.permute(3, 2, 0, 1))
    take('embedding/bias', 'patch_embed.proj.bias')
    index = 0
    while f'Transformer/encoderblock_{index}/LayerNorm_0/scale' in state:
        old, new = f'Transformer/encoderblock_{index}', f'blocks.{index}'
        for layer, norm in (('LayerNorm_0', 'norm1'), ('LayerNorm_2', 'norm2')):
            take(f'{old}/{layer}/scale', f'{new}.{norm}.weight')
            take(f'{old}/{layer}/bias', f'{new}.{norm}.bias')
        attention = f'{old}/MultiHeadDotProductAttention_1'
        qkv = {
            kind: [state.pop(f'{attention}/{part}/{kind}') for part in ('query', 'key', 'value')]
            for kind in ('kernel', 'bias')
        }
        # (C, heads, d) and (heads, d) each
        official[f'{new}.attn.qkv.weight'] = torch.cat([w.flatten(1).T for w in qkv['kernel']])
        official[f'{new}.attn.qkv.bias'] = torch.cat([b.flatten() for b in qkv['bias']])
        take(f'{attention}/out/kernel', f'{new}.attn.proj.weight', lambda w: w.flatten(0, 1).T)
        take(f'{attention}/out/bias', f'{new}.attn.proj.bias')
        for layer in ('0', '1'):
            name, to = f'{old}/MlpBlock_3/Dense_{layer}', f'{new}.mlp.fc{int(layer) + 1}'
            take(f'{name}/kernel', f'{to}.weight', torch.t)
            take(f'{name}/bias', f'{to}.bias')
        index += 1
    take('Transformer/encoder_norm/scale', 'norm.weight')
    take('Transformer/encoder_norm/bias', 'norm.bias')
    take('head/kernel', 'head.weight', torch.t)
    take('head/bias', 'head.bias')
    official.update(state)  # what has no place is listed
    return official


# A ViT of mmpretrain, below `backbone.`; LayerScale is that of its DeiT-III.
_MMPRETRAIN = {
    r'patch_embed\.projection\.(.*)': r'patch_embed.proj.\1',
    r'ln1\.(.*)': r'norm.\1',
    r'layers\.(\d+)\.ln([12])\.(.*)': r'blocks.\1.norm\2.\3',
    r'layers\.(\d+)\.attn\.gamma1\.weight': r'blocks.\1.ls1.gamma',
    r'layers\.(\d+)\.ffn\.gamma2\.weight': r'blocks.\1.ls2.gamma',
    r'layers\.(\d+)\.attn\.(.*)': r'blocks.\1.attn.\2',
    r'layers\.(\d+)\.ffn\.layers\.0\.0\.(.*)': r'blocks.\1.mlp.fc1.\2',
    r'layers\.(\d+)\.ffn\.layers\.1\.(.*)': r'blocks.\1.mlp.fc2.\2',
}


def _from_mmpretrain(state: State) -> State:
    return _from_timm(rename(state, _MMPRETRAIN))


_VIT_KEYS = ('blocks.0.norm1.weight', 'blocks.0.mlp.fc1.weight', 'patch_embed.proj.weight')
LAYOUTS = {
    'flashkat': Layout('FlashKAT', (*_VIT_KEYS, 'blocks.0.mlp.act1.numerator_v'), _from_flashkat),
    'kat': Layout('KAT', (*_VIT_KEYS, 'blocks.0.mlp.act1.weight_numerator'), lambda state: state),
    'mmpretrain': Layout(
        'mmpretrain VisionTransformer',
        ('layers.0.ln1.weight', 'layers.0.ffn.layers.0.0.weight', 'patch_embed.projection.weight'),
        _from_mmpretrain,
    ),
    'augreg': Layout(
        'AugReg ViT (.npz)',
        ('Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel', 'embedding/kernel'),
        _from_augreg,
    ),
    # Last: what it needs is in a KAT too.
    'timm': Layout('ViT as of timm, DeiT, MAE and DINOv2', _VIT_KEYS, _from_timm),
}

# What names of parameters tell about other architectures: a pattern, and what has it.
_OTHERS = {
    # Before BEiT, which has relative positions too.
    (
        r'(layers|stages|features)\.\d+\.(blocks\.)?\d+\.att(n|ention)\.(w_msa\.|self\.)?'
        r'(relative_position|cpb_mlp)'
    ): 'Swin Transformer',
    r'attn\.q_bias|attn\.relative_position_index': 'BEiT',
    r'visual\.transformer\.resblocks|(text|vision)_model\.': 'CLIP',
    r'in_proj_weight|encoder_layer_\d|self_attention': (
        'ViT on torch.nn.MultiheadAttention, as of torchvision or mmseg'
    ),
    r'encoder\.layer\.\d+\.|attention\.query': 'ViT of Hugging Face transformers',
    r'attn\.sr\.|attn\.kv\.|block\d+\.\d+\.norm1': 'PVT or SegFormer (MiT)',
    r'dwconv|conv_dw|downsample_layers': 'ConvNeXt',
    r'attn\.temperature': 'XCiT',
    r'attn\.proj_[lw]': 'CaiT',
    r'layer\d\.\d+\.(conv|bn)\d': 'ResNet',
    r'mlp\.w\d+\.': 'ViT with SwiGLU, as DINOv2-g or EVA-02',
}


def recognise(state: State) -> str | None:
    """Name of the layout in :data:`LAYOUTS` that a state dict has, or None."""
    for name, layout in LAYOUTS.items():
        if state.keys() >= set(layout.keys):
            # Relatives of the ViT have its keys, and some of their own.
            return name if 'kat' in name or not guess_other(state) else None
    return None


def guess_other(state: State) -> tuple[str, list[str]] | None:
    """Another architecture that a state dict looks like, and the keys that tell so, or None."""
    for pattern, name in _OTHERS.items():
        keys = [key for key in state if re.search(pattern, key)]
        if keys:
            return name, keys
    return None
