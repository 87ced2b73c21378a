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


# Names that relatives of timm's ViT have for the same: the original codes of DINOv2, DINOv3, EVA-02
# and DeiT-III, and timm's own EVA.
_TIMM = {
    r'(register|storage)_tokens': 'reg_token',
    r'(blocks\.\d+\.)gamma_([12])': r'\1ls\2.gamma',
    r'(blocks\.\d+\.mlp\.)(w1|fc1_g)\.(.*)': r'\1gate.\3',
    r'(blocks\.\d+\.mlp\.)(w2|fc1_x)\.(.*)': r'\1value.\3',
    r'(blocks\.\d+\.mlp\.)w12\.(.*)': r'\1fc1.\2',
    r'(blocks\.\d+\.mlp\.)w3\.(.*)': r'\1fc2.\2',
    r'(blocks\.\d+\.mlp\.)ffn_ln\.(.*)': r'\1norm.\2',
    r'(blocks\.\d+\.attn\.)inner_attn_ln\.(.*)': r'\1norm.\2',
    r'(blocks\.\d+\.attn\.)([qkv])_proj\.(.*)': r'\1\2.\3',
}
# Blocks in chunks, for sharding (DINOv2); the second number counts all of them.
_CHUNKS = {r'blocks\.\d+\.(\d+\..*)': r'blocks.\1'}
# What serves pretraining alone: MAE's decoder, tokens in the place of patches, norms of crops.
_PRETRAINING = re.compile(r'decoder[_.]|(embeddings\.)?mask_token$|lm_head\.|local_cls_norm\.')


def _from_timm(state: State) -> State:
    """The official keys, or those of relatives: DeiT, MAE, DINOv2, DINOv3, EVA-02, timm."""
    state = keep_entries(state, lambda key: not _PRETRAINING.match(key))
    state = rename(rename(state, _CHUNKS), _TIMM)
    for key in [key for key in state if key.endswith('.attn.qkv.bias_mask')]:
        # DINOv3: where this is zero the model has no bias, whatever the file holds there.
        mask, bias = state.pop(key).bool(), key.removesuffix('_mask')
        state[bias] = torch.where(mask, state[bias], torch.zeros_like(state[bias]))
    _join_parts(state)
    _place_periods(state)
    position = state.get('pos_embed')
    if position is not None and position.dim() == 4:  # (1, H, W, C), as SAM has it
        state['pos_embed'] = position.flatten(1, 2)
        state._metadata = {'': {'grid_size': tuple(position.shape[1:3])}}
    if 'dist_token' in state:
        # Between class token and patches, as a register is.
        state['reg_token'] = state.pop('dist_token')
    _add_positions_of_registers(state)
    return state


def _add_positions_of_registers(state: State) -> None:
    """Add the positions that registers have in some models (distilled DeiT) to the tokens.

    They stand between those of the class token and of the patches. Where they are is told by their
    number: without them the patches would make no square.
    """
    tokens, positions = state.get('reg_token'), state.get('pos_embed')
    noted = getattr(state, '_metadata', {}).get('', {}).get('grid_size')
    if tokens is None or positions is None or noted is not None:
        return
    first, count = int('cls_token' in state), tokens.shape[1]
    patches = positions.shape[1] - first - count
    counts = patches, patches + count, patches + count + first
    if [math.isqrt(max(number, 0)) ** 2 == number for number in counts] == [True, False, False]:
        before, own, behind = positions.split([first, count, patches], dim=1)
        state['reg_token'] = tokens + own
        state['pos_embed'] = torch.cat([before, behind], dim=1)


def _join_parts(state: State) -> None:
    """Make one linear map of queries, keys and values, and one of gate and value."""
    for key in [key for key in state if re.fullmatch(r'blocks\.\d+\.attn\.q\.(weight|bias)', key)]:
        block, _, kind = key.rpartition('q.')
        q, v = state.pop(f'{block}q.{kind}'), state.pop(f'{block}v.{kind}')
        if kind == 'bias' and f'{block}k.bias' not in state:
            state[f'{block}q_bias'], state[f'{block}v_bias'] = q, v
        else:
            state[f'{block}qkv.{kind}'] = torch.cat([q, state.pop(f'{block}k.{kind}'), v])
    for key in [key for key in state if re.fullmatch(r'blocks\.\d+\.mlp\.gate\.\w+', key)]:
        value = key.replace('.gate.', '.value.')
        state[key.replace('.gate.', '.fc1.')] = torch.cat([state.pop(key), state.pop(value)])


def _place_periods(state: State) -> None:
    """Hand the periods of rotary positions to the attention of each block.

    A file that has them is of a model that computes with them.
    """
    periods = state.pop('rope_embed.periods', None)
    for key in [key for key in state if re.search(r'(^|\.)rope\.freqs_(cos|sin)$', key)]:
        # EVA-02 keeps whole tables, of its one formula.
        count = state.pop(key).shape[-1] // 4
        periods = 10000 ** (torch.arange(count, dtype=torch.float64) / count)
    if periods is not None:
        for index in range(count_blocks(state)):
            state[f'blocks.{index}.attn.rope.periods'] = periods


def count_blocks(state: State) -> int:
    """Number of blocks in a state dict of the official layout."""
    return 1 + max(int(key.split('.')[1]) for key in state if key.startswith('blocks.'))


# Hugging Face transformers: ViT, DeiT, MAE, I-JEPA, DINOv2 and DINOv3. Files have the names of
# version 4, which version 5 writes too; state dicts of its models have others.
_BLOCK = r'(?:(?:encoder|model)\.)?layers?\.(\d+)\.'
_TRANSFORMERS = {
    r'embeddings\.(cls_token|register_tokens|mask_token)': r'\1',
    r'embeddings\.distillation_token': 'dist_token',
    r'embeddings\.position_embeddings': 'pos_embed',
    r'embeddings\.patch_embeddings\.(projection\.)?(.*)': r'patch_embed.proj.\2',
    rf'{_BLOCK}(norm1|layernorm_before)\.(.*)': r'blocks.\1.norm1.\3',
    rf'{_BLOCK}(norm2|layernorm_after)\.(.*)': r'blocks.\1.norm2.\3',
    rf'{_BLOCK}attention\.attention\.([qkv])(uery|ey|alue)\.(.*)': r'blocks.\1.attn.\2.\4',
    rf'{_BLOCK}attention\.([qkv])_proj\.(.*)': r'blocks.\1.attn.\2.\3',
    rf'{_BLOCK}attention\.(output\.dense|o_proj)\.(.*)': r'blocks.\1.attn.proj.\3',
    rf'{_BLOCK}layer_scale([12])\.lambda1': r'blocks.\1.ls\2.gamma',
    rf'{_BLOCK}mlp\.gate_proj\.(.*)': r'blocks.\1.mlp.w1.\2',
    rf'{_BLOCK}mlp\.weights_in\.(.*)': r'blocks.\1.mlp.w12.\2',
    rf'{_BLOCK}(intermediate\.dense|mlp\.fc1)\.(.*)': r'blocks.\1.mlp.fc1.\3',
    rf'{_BLOCK}(output\.dense|mlp\.(fc2|weights_out|down_proj))\.(.*)': (r'blocks.\1.mlp.fc2.\4'),
    r'(layernorm|norm)\.(.*)': r'norm.\2',
    r'classifier\.(.*)': r'head.\1',
}


def _from_transformers(state: State) -> State:
    state = rename(state, _TRANSFORMERS)
    gated = 'blocks.0.mlp.w1.weight' in state
    up = r'blocks.\1.mlp.w2.\2' if gated else r'blocks.\1.mlp.fc1.\2'
    return _from_timm(rename(state, {rf'{_BLOCK}mlp\.up_proj\.(.*)': up}))


# The image towers of CLIP and SigLIP there.
_TRANSFORMERS_CLIP = {
    r'embeddings\.class_embedding': 'cls_token',
    r'embeddings\.position_embedding\.weight': 'pos_embed',
    r'embeddings\.patch_embedding\.(.*)': r'patch_embed.proj.\1',
    r'pre_layrnorm\.(.*)': r'norm_pre.\1',  # as it is spelled
    r'post_layernorm\.(.*)': r'norm.\1',
    r'encoder\.layers\.(\d+)\.layer_norm([12])\.(.*)': r'blocks.\1.norm\2.\3',
    r'encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(.*)': r'blocks.\1.attn.\2.\3',
    r'encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.*)': r'blocks.\1.attn.proj.\2',
    r'encoder\.layers\.(\d+)\.mlp\.(.*)': r'blocks.\1.mlp.\2',
    r'head\.(.*)': r'attn_pool.\1',
}
# Those of OpenAI's CLIP and of OpenCLIP.
_OPENAI = {
    'class_embedding': 'cls_token',
    'positional_embedding': 'pos_embed',
    r'conv1\.(.*)': r'patch_embed.proj.\1',
    r'ln_pre\.(.*)': r'norm_pre.\1',
    r'ln_post\.(.*)': r'norm.\1',
    r'transformer\.resblocks\.(\d+)\.ln_([12])\.(.*)': r'blocks.\1.norm\2.\3',
    r'transformer\.resblocks\.(\d+)\.ls_([12])\.gamma': r'blocks.\1.ls\2.gamma',
    r'transformer\.resblocks\.(\d+)\.attn\.in_proj_(.*)': r'blocks.\1.attn.qkv.\2',
    r'transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)': r'blocks.\1.attn.proj.\2',
    r'transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)': r'blocks.\1.mlp.fc1.\2',
    r'transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)': r'blocks.\1.mlp.fc2.\2',
    'proj': 'head.proj',
}


def _from_clip(rules: dict[str, str]) -> Callable[[State], State]:
    def to_official(state: State) -> State:
        state = rename(state, rules)
        _join_parts(state)
        for key in ('cls_token', 'pos_embed'):  # (C,) and (N, C) there
            if key in state:
                state[key] = state[key].reshape(1, -1, state[key].shape[-1])
        state.pop('embeddings.position_ids', None)
        return state

    return to_official


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
    r'pre_norm\.(.*)': r'norm_pre.\1',
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


_VIT_KEYS = ('blocks.0.norm1.weight', 'patch_embed.proj.weight')
_TRANSFORMERS_PATCHES = 'embeddings.patch_embeddings.projection.weight'
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
    'transformers': Layout(
        'ViT or DINOv2 of Hugging Face transformers',
        ('encoder.layer.0.attention.attention.query.weight', _TRANSFORMERS_PATCHES),
        _from_transformers,
    ),
    'transformers_dinov3': Layout(
        'DINOv3 of Hugging Face transformers',
        ('layer.0.attention.q_proj.weight', 'embeddings.patch_embeddings.weight'),
        _from_transformers,
    ),
    'transformers_5_vit': Layout(
        'ViT of Hugging Face transformers 5',
        ('layers.0.attention.q_proj.weight', _TRANSFORMERS_PATCHES),
        _from_transformers,
    ),
    'transformers_5_dinov2': Layout(
        'DINOv2 of Hugging Face transformers 5',
        ('encoder.layer.0.attention.q_proj.weight', _TRANSFORMERS_PATCHES),
        _from_transformers,
    ),
    'transformers_5_dinov3': Layout(
        'DINOv3 of Hugging Face transformers 5',
        ('model.layer.0.attention.q_proj.weight', 'embeddings.patch_embeddings.weight'),
        _from_transformers,
    ),
    'transformers_clip': Layout(
        'CLIP or SigLIP of Hugging Face transformers',
        ('encoder.layers.0.self_attn.q_proj.weight', 'embeddings.patch_embedding.weight'),
        _from_clip(_TRANSFORMERS_CLIP),
    ),
    'openai': Layout(
        'CLIP of OpenAI and OpenCLIP',
        ('transformer.resblocks.0.ln_1.weight', 'conv1.weight', 'class_embedding'),
        _from_clip(_OPENAI),
    ),
    # Behind KAT, which has its keys; a block or a chunk of blocks.
    'timm': Layout('ViT as of timm, DeiT, MAE, DINOv2, DINOv3 and EVA-02', _VIT_KEYS, _from_timm),
    'chunks': Layout(
        'DINOv2 with blocks in chunks',
        ('blocks.0.0.norm1.weight', 'patch_embed.proj.weight'),
        _from_timm,
    ),
}


def register_layout(name: str, layout: Layout) -> None:
    """Have checkpoints of another project's layout recognised and converted, behind those known.

    Raises:
        ValueError: The name is taken.
    """
    if name in LAYOUTS:
        raise ValueError(f'register_layout: {name!r} is taken by {LAYOUTS[name].title}')
    LAYOUTS[name] = layout


# What names of parameters tell about other architectures: a pattern, and what has it.
_OTHERS = {
    # Before BEiT, which has relative positions too.
    (
        r'(layers|stages|features)\.\d+\.(blocks\.)?\d+\.att(n|ention)\.(w_msa\.|self\.)?'
        r'(relative_position|cpb_mlp)'
    ): 'Swin Transformer',
    r'attn\.relative_position_(index|bias_table)|(^|\.)rel_pos_bias\.': 'BEiT',
    r'attn\.rel_pos\.|attn\.rel_pos_mlp\.': 'ViT with relative positions of its own (vit_relpos_*)',
    r'patch_embed\.backbone\.': 'hybrid of a convolutional network and a ViT',
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
}


def recognise(state: State) -> str | None:
    """Name of the layout in :data:`LAYOUTS` that a state dict has, or None."""
    for name, layout in LAYOUTS.items():
        if state.keys() >= set(layout.keys):
            # Relatives of the ViT have its keys, and some of their own.
            return name if name not in ('timm', 'mmpretrain') or not guess_other(state) else None
    return None


def find_prefixes(state: State) -> list[str]:
    """Where in a state dict there are weights of a known layout: what stands before their keys."""
    found: dict[str, None] = {}
    for layout in LAYOUTS.values():
        first, *others = layout.keys
        for key in state:
            prefix = key.removesuffix(first)
            if key != prefix and (not prefix or prefix.endswith('.')):
                if all(prefix + other in state for other in others):
                    found[prefix] = None
    return list(found)


def guess_other(state: State) -> tuple[str, list[str]] | None:
    """Another architecture that a state dict looks like, and the keys that tell so, or None."""
    for pattern, name in _OTHERS.items():
        keys = [key for key in state if re.search(pattern, key)]
        if keys:
            return name, keys
    return None
