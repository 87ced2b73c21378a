"""Load checkpoints of any known layout into a KAT backbone, or a model that has one."""

import logging
import math
import re
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.backbones.kat import ARCHS
from kat_mm.errors import UserError
from kat_mm.layers import resize_patch_embed

from .convert import MMPRETRAIN_HEAD, convert_backbone, depth, describe, split_model, square_grid
from .files import read_checkpoint
from .layouts import State
from .state_dict import add_prefix, find_state_dict, keep_entries

# What belongs to tokens, and is fitted to those of the model by the modules that have it.
_RESIZED = re.compile(r'pos_embed$|rel_pos_[hw]$|\.attn\.operator\.')
_LINEAR = re.compile(r'^blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight$')


def load_pretrained(backbone: KAT, path: str | Path, prefix: str = 'backbone.') -> None:
    """Load the weights of a backbone, alone or as part of a model, into ``backbone``.

    Understands every layout of :data:`kat_mm.checkpoints.layouts.LAYOUTS`. Position and patch
    embeddings of other sizes are resized. Heads are left out; whatever else is missing or left over
    is listed in the log.

    Args:
        backbone: The model to load into.
        path: The checkpoint file; see :func:`read_checkpoint`.
        prefix: Where the backbone's keys are in a file that has more.

    Raises:
        UserError: The file cannot be read, has weights of other shapes, or is of another layout.
    """
    state, rest = split_model(find_state_dict(read_checkpoint(path)), prefix)
    state = convert_backbone(state, path)
    heads = [key for key in state if key.startswith(('head.', 'head_dist.'))]
    state = fit_to_backbone(keep_entries(state, lambda key: key not in heads), backbone, path)
    try:
        missing, left_over = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        shapes = '; '.join(line.strip() for line in str(error).splitlines()[1:4])
        raise UserError(f'checkpoint {path} does not fit the backbone: {shapes}') from error
    own = backbone.state_dict().keys()
    # Not all but the missing: hooks of the model add what a file need not have.
    print_log(f'Loaded {len(own & state.keys())} of {len(own)} tensors from {path}', 'current')
    _report(backbone, missing, left_over, [*heads, *rest])


def convert_for_model(
    content: dict, model: nn.Module, path: str | Path, strict: bool = False
) -> State:
    """Convert the content of a checkpoint file to the names and sizes of a model with a KAT.

    A file of another layout gives the backbone, and its ``head`` where the model is a classifier of
    mmpretrain with as many classes. Of a file of a whole model all is kept but what has other
    shapes outside of the backbone, such as the heads of other class counts: these are left out,
    with a word in the log.

    Args:
        content: As :func:`read_checkpoint` returns it.
        model: The model; one without a KAT gets the state dict as it is.
        path: Where the content comes from, for messages.
        strict: Refuse what has other shapes outside of the backbone too. Default: False.

    Raises:
        UserError: It does not fit.
    """
    state = find_state_dict(content)
    backbones = [name for name, module in model.named_modules() if isinstance(module, KAT)]
    if not backbones:
        return state
    prefix = f'{backbones[0]}.'
    backbone, rest = split_model(state, prefix)
    backbone = convert_backbone(backbone, path)
    head = keep_entries(backbone, lambda key: key.startswith('head.'))
    backbone = keep_entries(backbone, lambda key: key not in head)
    backbone = fit_to_backbone(backbone, model.get_submodule(backbones[0]), path)
    state = add_prefix(backbone, prefix)
    rest.update(add_prefix(head, MMPRETRAIN_HEAD))
    wrong = _other_shapes(rest, model.state_dict())
    if wrong and strict:
        raise UserError(
            f'checkpoint {path} has weights of other shapes than the model of the config: '
            f'{"; ".join(list(wrong.values())[:3])}. Use the config that it was trained with'
        )
    for shapes in wrong.values():
        print_log(f'Left out: {shapes}', 'current', logging.WARNING)
    state.update(keep_entries(rest, lambda key: key not in wrong))
    return state


def _other_shapes(state: State, own: State) -> dict[str, str]:
    """The entries that have another shape in the model, each with both shapes in words."""
    return {
        key: f'{key}: {list(value.shape)} in the checkpoint, {list(own[key].shape)} in the model'
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    }


def fit_to_backbone(state: State, backbone: KAT, path: str | Path) -> State:
    """Resize what may be resized to a backbone, and refuse what does not fit it.

    Args:
        state: The backbone's weights in the official layout, without head.
        backbone: The model that they are for.
        path: Where they come from, for messages.

    Returns:
        The state dict without the blocks that the backbone does not build because nothing asks for
        their output.

    Raises:
        UserError: Depth, width or another shape differs, or a part of a block is missing.
    """
    own = backbone.state_dict()
    blocks, width = depth(state), state['patch_embed.proj.weight'].shape[0]
    if width != backbone.embed_dims or blocks not in (backbone.depth, backbone.num_layers):
        archs = [
            name
            for name, arch in ARCHS.items()
            if (arch['num_layers'], arch['embed_dims']) == (blocks, width)
        ]
        raise UserError(
            f'checkpoint {path} is {describe(state)}; the backbone has width {backbone.embed_dims} '
            f'and {backbone.depth} blocks. '
            + (f'Choose arch={archs[0]!r}' if archs else 'Give its sizes as arch=dict(...)')
        )
    # Blocks behind the last of out_indices are not built, nor the norm behind them.
    unused = [
        key
        for key in state
        if key.startswith('blocks.') and int(key.split('.')[1]) >= backbone.num_layers
    ]
    if backbone.num_layers < backbone.depth:
        unused += [key for key in state if key.startswith('norm.')]
    state = keep_entries(state, lambda key: key not in unused)
    patch = state['patch_embed.proj.weight']
    if patch.shape[1] == backbone.patch_embed.proj.in_channels:
        size = tuple(own['patch_embed.proj.weight'].shape[-2:])
        if patch.shape[-2:] != size:
            print_log(f'Patches resized from {tuple(patch.shape[-2:])} to {size}', 'current')
            state['patch_embed.proj.weight'] = resize_patch_embed(patch, size)
    if 'cls_token' not in state and 'cls_token' in own:
        # The class token keeps its start.
        position = state['pos_embed']
        state['pos_embed'] = torch.cat([torch.zeros_like(position[:, :1]), position], dim=1)
    _check_grid(state, backbone, path)
    wrong = _other_shapes(keep_entries(state, lambda key: not _RESIZED.search(key)), own)
    if wrong:
        raise UserError(
            f'checkpoint {path} has weights of other shapes than the backbone: '
            f'{"; ".join(list(wrong.values())[:3])}. Choose the arch, ffn_cfg and attn_cfg that it '
            'was trained with'
        )
    # Without a bias or a norm the start is a model that has none; without these it is noise.
    lacking = [key for key in own if _LINEAR.search(key) and key not in state]
    if lacking:
        raise UserError(
            f'checkpoint {path} is incomplete: it lacks {len(lacking)} weights of the backbone, '
            f'such as {lacking[0]}. Get the whole file'
        )
    return state


def _check_grid(state: State, backbone: KAT, path: str | Path) -> None:
    """Refuse a position embedding whose grid is unknown, since only a known one can be resized."""
    position = state.get('pos_embed')
    if position is None:
        return
    has_class = 'cls_token' in state or 'cls_token' in backbone.state_dict()
    patches = position.shape[1] - int(has_class)
    known = state._metadata.get('', {}).get('grid_size')
    if known is None and patches != math.prod(backbone.grid_size) and not square_grid(patches):
        raise UserError(
            f'checkpoint {path} has a position embedding for {patches} patches, which make no '
            'square: its grid is unknown, and it cannot be resized. Load it with the img_size and '
            'patch_size that it was trained with'
        )


def _report(backbone, missing, left_over, left_out) -> None:
    rational = [key for key in missing if re.search(r'\.act[12]\.weight_', key)]
    if len(rational) == 4 * len(backbone.blocks):
        print_log('A ViT has no rational functions: these start as act_init says', 'current')
        missing = [key for key in missing if key not in rational]
    for what, keys in (('Left out', left_out), ('Missing', missing), ('Left over', left_over)):
        if keys:
            print_log(f'{what}: {", ".join(keys)}', 'current', logging.WARNING)


@WEIGHT_INITIALIZERS.register_module()
class PretrainedKAT:
    """What ``init_cfg=dict(type='Pretrained', checkpoint=FILE)`` does for a KAT backbone.

    Args:
        checkpoint: Path or URL; see :func:`load_pretrained`.
        prefix: Where the backbone's keys are in a file that has more. Default: 'backbone.'.
    """

    def __init__(self, checkpoint: str, prefix: str = 'backbone.'):
        self.checkpoint = checkpoint
        self.prefix = prefix

    def __call__(self, module: nn.Module) -> None:
        load_pretrained(module, self.checkpoint, self.prefix)
