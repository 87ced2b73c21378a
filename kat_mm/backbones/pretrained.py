"""Checkpoints of any known layout for a KAT backbone."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from kat_mm.checkpoints import find_state_dict
from kat_mm.checkpoints.convert import convert_backbone, depth, describe, split_model
from kat_mm.checkpoints.layouts import State
from kat_mm.checkpoints.state_dict import keep_entries
from kat_mm.errors import UserError
from kat_mm.layers import find_grid
from kat_mm.weights import read_weights

from .archs import ARCHS

_logger = logging.getLogger(__name__)

# What belongs to tokens or pixels, and is fitted to the model by the modules that have it.
_FITTED = re.compile(r'pos_embed$|rel_pos_[hw]$|\.attn\.operator\.|^patch_embed\.proj\.weight$')
_LINEAR = re.compile(r'^blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight$')


def load_pretrained(backbone: nn.Module, path: str | Path, prefix: str = 'backbone.') -> None:
    """Load the weights of a backbone, alone or as part of a model, into ``backbone``.

    Understands every layout of :data:`kat_mm.checkpoints.layouts.LAYOUTS`. Position and patch
    embeddings of other sizes are resized. Heads are left out; whatever else is missing or left over
    is listed in the log.

    Args:
        backbone: The model to load into.
        path: The checkpoint: a name, a URL or a file, as for :func:`kat_mm.weights.find_weights`.
        prefix: Where the backbone's keys are in a file that has more.

    Raises:
        UserError: The file cannot be got or read, has weights of other shapes, or is of another
            layout.
    """
    state, rest = split_model(find_state_dict(read_weights(path)), prefix)
    state = convert_backbone(state, path)
    heads = [key for key in state if key.startswith(('head.', 'head_dist.'))]
    state = keep_entries(state, lambda key: key not in heads)
    check_fit(state, backbone, path)
    try:
        missing, left_over = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        shapes = '; '.join(line.strip() for line in str(error).splitlines()[1:4])
        raise UserError(f'checkpoint {path} does not fit the backbone: {shapes}') from error
    own = backbone.state_dict().keys()
    # Not all but the missing: hooks of the model add what a file need not have.
    _logger.info('Loaded %d of %d tensors from %s', len(own & state.keys()), len(own), path)
    _report(backbone, missing, left_over, [*heads, *rest])


def split_init_cfg(init_cfg: dict | list[dict] | None) -> tuple[list[dict], list[dict]]:
    """The checkpoints that an ``init_cfg`` names, and the initialisers in it.

    A checkpoint of None is none.
    """
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    pretrained = [cfg for cfg in cfgs if cfg['type'] == 'Pretrained']
    others = [cfg for cfg in cfgs if cfg['type'] != 'Pretrained']
    return [cfg for cfg in pretrained if cfg['checkpoint'] is not None], others


def check_fit(state: State, backbone: nn.Module, path: str | Path) -> None:
    """Refuse the weights of another model than a backbone can be made to fit.

    Args:
        state: The weights in the official layout, without head.
        backbone: The model that they are for.
        path: Where they come from, for messages.

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
    _check_grid(state, backbone, path)
    patch, own_patch = (weights['patch_embed.proj.weight'] for weights in (state, own))
    wrong = other_shapes(keep_entries(state, lambda key: not _FITTED.search(key)), own)
    if patch.shape[:2] != own_patch.shape[:2]:
        wrong.update(other_shapes({'patch_embed.proj.weight': patch}, own))
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


def _check_grid(state: State, backbone: nn.Module, path: str | Path) -> None:
    """Refuse a position embedding whose grid is unknown, since only a known one can be resized."""
    position = state.get('pos_embed')
    if position is None:
        return
    patches = position.shape[1] - int('cls_token' in state)
    noted = state._metadata.get('', {}).get('grid_size')
    if find_grid(patches, noted, backbone.grid_size) is None:
        raise UserError(
            f'checkpoint {path} has a position embedding for {patches} patches, which make no '
            'square: its grid is unknown, and it cannot be resized. Load it with the img_size and '
            'patch_size that it was trained with'
        )


def other_shapes(state: State, own: State) -> dict[str, str]:
    """The entries that have another shape in the model, each with both shapes in words."""
    return {
        key: f'{key}: {list(value.shape)} in the checkpoint, {list(own[key].shape)} in the model'
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    }


def _report(
    backbone: nn.Module,
    missing: Iterable[str],
    left_over: Iterable[str],
    left_out: Iterable[str],
) -> None:
    rational = [key for key in missing if re.search(r'\.act[12]\.weight_', key)]
    if len(rational) == 4 * len(backbone.blocks):
        _logger.info('A ViT has no rational functions: these start as act_init says')
        missing = [key for key in missing if key not in rational]
    for what, keys in (('Left out', left_out), ('Missing', missing), ('Left over', left_over)):
        if keys:
            _logger.warning('%s: %s', what, ', '.join(keys))
