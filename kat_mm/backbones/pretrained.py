"""Checkpoints of any known layout for a KAT backbone."""

import copy
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from kat_mm.checkpoints import find_state_dict
from kat_mm.checkpoints.convert import (
    DEFAULT_PREFIX,
    convert_backbone,
    describe,
    fold_layer_scale,
    split_model,
)
from kat_mm.checkpoints.layouts import State, count_blocks
from kat_mm.checkpoints.state_dict import keep_entries
from kat_mm.errors import UserError, some
from kat_mm.layers import find_positions
from kat_mm.weights import read_weights

from .archs import ARCHS

_logger = logging.getLogger(__name__)

# Behind the maps that a backbone gives: heads, poolings and the norms of what was pooled.
_HEADS = re.compile(r'(head|head_dist|fc_norm|attn_pool|pooler|pre_logits|neck)[./]')
_LINEAR = re.compile(r'blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight')
_NORM_BIAS = re.compile(r'(^|[._])norm\w*\.bias$')
_MISMATCH = re.compile(r'size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)')
# Parts that a file or the backbone may lack, and what gives the backbone what the file has.
_OPTIONS = {
    r'.*lora_|.*\.base_layer\.': 'the weights with their adapters (LoRA) merged',
    r'reg_token': 'num_registers',
    r'cls_token': 'with_cls_token',
    r'pos_embed': 'with_pos_embed',
    r'norm_pre\.': 'pre_norm',
    r'norm\.': 'final_norm',
    r'.*\.act[12]\.': "ffn_cfg=dict(type='GRKAN')",
    r'.*\.attn\.[qk]_norm\.': 'attn_cfg=dict(qk_norm=...)',
    r'.*\.attn\.norm\.': 'attn_cfg=dict(inner_norm=...)',
    r'.*\.mlp\.norm\.': 'ffn_cfg=dict(inner_norm=...)',
    r'.*\.attn\.rope\.': 'attn_cfg=dict(rope=...)',
    r'.*\.attn\.(qkv\.bias|q_bias|v_bias)': 'attn_cfg=dict(qkv_bias=...)',
    r'.*\.rel_pos_[hw]': 'use_rel_pos',
}


def load_pretrained(
    backbone: nn.Module,
    path: str | Path,
    prefix: str = DEFAULT_PREFIX,
    ignore: str | Sequence[str] = (),
) -> None:
    """Load the weights of a backbone, alone or as part of a model, into ``backbone``.

    Understands every layout of :data:`kat_mm.checkpoints.layouts.LAYOUTS`. Position and patch
    embeddings of other sizes are resized. Heads are left out, as the log says. What remains must be
    what the backbone computes: a part that one of both lacks is refused.

    Args:
        backbone: The model to load into.
        path: The checkpoint: a name, a URL or a file, as for :func:`kat_mm.weights.find_weights`.
        prefix: Where the backbone's keys are in a file that has more.
        ignore: Regular expressions of names, matched from their beginning, which may be missing in
            the file or have no place in the backbone all the same.

    Raises:
        UserError: The file cannot be got or read, is of another layout, or is of another model.
    """
    state, rest = split_model(find_state_dict(read_weights(path)), prefix, path)
    state = convert_backbone(state, path)
    fitted, left_out = fit_state(state, backbone, path, ignore)
    backbone.load_state_dict(fitted, strict=False)
    own = backbone.state_dict().keys()
    # Not all but the missing: hooks of the model add what a file need not have.
    _logger.info('Loaded %d of %d tensors from %s', len(own & state.keys()), len(own), path)
    if left_out or rest:
        _logger.warning('Left out: %s', _summary([*left_out, *rest]))


def split_init_cfg(init_cfg: dict | list[dict] | None) -> tuple[list[dict], list[dict]]:
    """The checkpoints that an ``init_cfg`` names, and the initialisers in it.

    A checkpoint of None is none.
    """
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    pretrained = [cfg for cfg in cfgs if is_pretrained(cfg)]
    others = [cfg for cfg in cfgs if not is_pretrained(cfg)]
    return [cfg for cfg in pretrained if cfg['checkpoint'] is not None], others


def is_pretrained(cfg: dict) -> bool:
    """Whether an initialiser is mmengine's for checkpoints, by its name, in a scope, or class."""
    kind = cfg.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '').removesuffix('Init')
    return name.rpartition('.')[2] == 'Pretrained'


def check_init_cfg(init_cfg: dict | list[dict] | None) -> None:
    """Refuse an ``init_cfg`` of which a part is of a wrong kind, or is not known.

    Initialisers other than that of checkpoints are mmengine's, which knows them.

    Raises:
        ValueError: The message says what would be right.
    """
    for cfg in init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]:
        if cfg is None:
            continue
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ValueError(
                f'KAT: init_cfg={init_cfg!r} must be a dict with a type, or several of them, for '
                "example dict(type='Pretrained', checkpoint=FILE)"
            )
        if not is_pretrained(cfg):
            continue
        path = cfg.get('checkpoint', ...)
        if not isinstance(path, str | Path | None) or path == '':
            raise ValueError(
                f'KAT: init_cfg={init_cfg!r} must have as checkpoint the name of a published '
                'model, a file, a URL, or None for from scratch'
            )
        unknown = cfg.keys() - {'type', 'checkpoint', 'prefix', 'ignore', 'map_location'}
        if unknown:
            raise ValueError(
                f'KAT: init_cfg has the unknown keys {", ".join(sorted(unknown))}; beside type and '
                'checkpoint it takes prefix, where the backbone is in the file, and ignore, what '
                'may differ'
            )
        if not isinstance(cfg.get('prefix', ''), str):
            raise ValueError(
                f"KAT: init_cfg.prefix={cfg['prefix']!r} must be the beginning of the backbone's "
                "names in the file, such as 'backbone.'"
            )
        _compile_ignored(cfg.get('ignore', ()))


def _compile_ignored(ignore: str | Sequence[str]) -> re.Pattern:
    """One pattern of several; one that matches nothing of none."""
    patterns = [ignore] if isinstance(ignore, str) else ignore
    try:
        alternatives = [re.compile(pattern).pattern for pattern in patterns]
        return re.compile('|'.join(f'(?:{one})' for one in alternatives) or '(?!)')
    except (TypeError, re.error) as error:
        raise ValueError(
            f'ignore={ignore!r} must be a regular expression of names of weights, or several '
            f'({error})'
        ) from error


def fit_state(
    state: State, backbone: nn.Module, path: str | Path, ignore: str | Sequence[str] = ()
) -> tuple[State, list[str]]:
    """Fit the weights of a model to a backbone, or refuse them if it computes something else.

    Args:
        state: The weights in the official layout.
        backbone: The model that they are for, which is not changed.
        path: Where they come from, for messages.
        ignore: As of :func:`load_pretrained`.

    Returns:
        What the backbone has in the file, by its names and in its sizes, with zeros for biases that
        the file does without; and the keys that were left out.

    Raises:
        UserError: Depth, width or another shape differs, or one of both has a part more.
    """
    _check_size(state, backbone, path)
    _check_grid(state, backbone, path)
    ignored = _compile_ignored(ignore)
    left_out = [key for key in state if _HEADS.match(key) or ignored.match(key)]
    state = keep_entries(state, lambda key: key not in left_out)
    if not any(name.endswith('ls1.gamma') for name, _ in backbone.named_parameters()):
        state = fold_layer_scale(state)
    shadow = _shadow(backbone)
    try:
        missing, left_over = shadow.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        wrong = [
            f'{key}: [{theirs}] in the checkpoint, [{own}] in the model'
            for key, theirs, own in _MISMATCH.findall(str(error))
        ]
        raise UserError(
            f'checkpoint {path} has weights of other shapes than the backbone: '
            f'{some(wrong or [error], 3, "; ")}. Choose the arch, in_channels, ffn_cfg and '
            'attn_cfg that it was trained with'
        ) from error
    if left_over:
        raise UserError(
            f'checkpoint {path} has parts that the backbone does not compute: '
            f'{_summary(left_over)}; without them its features are others. '
            f'{_advice(left_over, path)}'
        )
    fitted = shadow.state_dict()
    biases = [key for key in missing if re.search(r'(^|[._])bias$', key)]
    lacking = [key for key in missing if key not in biases and not ignored.match(key)]
    _check_norms([key for key in biases if not ignored.match(key)], missing, path)
    _check_lacking(lacking, shadow, path, left_out)
    for key in [key for key, value in fitted.items() if value.is_meta]:
        if key in biases:  # adds nothing, which is the same function
            fitted[key] = torch.zeros(fitted[key].shape)
        else:
            del fitted[key]
    _report_missing(missing, backbone)
    return fitted, left_out


def _shadow(backbone: nn.Module) -> nn.Module:
    """A copy of a module whose parameters and buffers take no memory."""
    tensors = (*backbone.parameters(), *backbone.buffers())
    with torch.no_grad():
        bare = {
            id(tensor): nn.Parameter(tensor.to('meta'), tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else tensor.to('meta')
            for tensor in tensors
        }
    return copy.deepcopy(backbone, bare)


def _check_size(state: State, backbone: nn.Module, path: str | Path) -> None:
    """Refuse the weights of another depth or width."""
    blocks, width = count_blocks(state), state['patch_embed.proj.weight'].shape[0]
    if width == backbone.embed_dims and blocks in (backbone.depth, backbone.num_layers):
        return
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


def _check_grid(state: State, backbone: nn.Module, path: str | Path) -> None:
    """Refuse a position embedding whose grid is unknown, since only a known one can be resized."""
    position = state.get('pos_embed')
    if position is None or backbone.pos_embed is None:
        return
    count, has_cls_token = position.shape[1], 'cls_token' in state
    noted = getattr(state, '_metadata', {}).get('', {}).get('grid_size')
    if find_positions(count, has_cls_token, noted, backbone.grid_size)[0] is None:
        raise UserError(
            f'checkpoint {path} has a position embedding for {count - has_cls_token} patches, '
            'which make no square: its grid is unknown, and it cannot be resized. Load it with the '
            'img_size and patch_size that it was trained with'
        )


def _check_norms(biases: list[str], missing: list[str], path: str | Path) -> None:
    """Refuse norms that have a weight and no bias: those are of another kind, mostly."""
    norms = [
        key
        for key in biases
        if _NORM_BIAS.search(key) and f'{key.removesuffix("bias")}weight' not in missing
    ]
    if norms:
        raise UserError(
            f'checkpoint {path} has norms without a bias, as RMSNorm is: it lacks '
            f'{_summary(norms)}. The norms of the backbone are LayerNorm, which is another '
            "function. If those of the file are LayerNorm too, say so: ignore=r'.*norm\\w*\\.bias' "
            'in init_cfg'
        )


def _check_lacking(
    lacking: list[str], backbone: nn.Module, path: str | Path, left_out: list[str]
) -> None:
    """Refuse a file without what the backbone computes with.

    Parts of attention and feed-forward that all blocks of the file do without are those that a user
    gives to the model: rational functions, for one. They keep their start.
    """
    linear = [key for key in lacking if _LINEAR.fullmatch(key)]
    inside = re.compile(r'blocks\.\d+\.(attn|mlp)\.(?!.*norm\.)(.*)')
    counts = Counter(match[2] for key in lacking if (match := inside.match(key)))
    incomplete = [
        key
        for key in lacking
        if (match := inside.match(key)) and counts[match[2]] < len(backbone.blocks)
    ]
    if linear or incomplete:
        first = (linear or incomplete)[0]
        raise UserError(
            f'checkpoint {path} is incomplete: it lacks {len(linear or incomplete)} weights of the '
            f'backbone, such as {first}. Get the whole file'
        )
    needed = [key for key in lacking if not inside.match(key)]
    if needed:
        other = 'fc_norm.weight' in left_out and 'norm.weight' in needed
        raise UserError(
            f'checkpoint {path} lacks parts that the backbone computes: {_summary(needed)}'
            + (' (fc_norm, behind the pooling, is no replacement)' if other else '')
            + f'; with those as they start, its features are others. {_advice(needed, path)}'
        )


def _advice(keys: Iterable[str], path: str | Path) -> str:
    """What makes a backbone compute what a file has."""
    options = []
    for key in keys:
        found = [words for pattern, words in _OPTIONS.items() if re.match(pattern, key)]
        options += [words for words in found[:1] if words not in options]
    part = re.sub(r'^blocks\\\.\d+', r'blocks\.\\d+', re.escape(next(iter(keys))))
    return (
        f'Give the backbone {", ".join(options)} as the model of the file has it. '
        if options
        else 'They belong to another architecture, perhaps. '
    ) + (
        f'To do without all the same, name it: ignore={part!r} in init_cfg, or '
        f'python tools/convert_checkpoint.py {path} OUT --ignore {part!r}'
    )


def _summary(keys: Iterable[str], most: int = 6) -> str:
    """The names, those of all blocks as one; of many, the first ones and how many there are."""
    names = list(dict.fromkeys(re.sub(r'^blocks\.\d+\.', 'blocks.*.', key) for key in keys))
    shown = ', '.join(names[:most])
    return shown if len(names) <= most else f'{shown} and {len(names) - most} more'


def _report_missing(missing: list[str], backbone: nn.Module) -> None:
    rational = [key for key in missing if re.search(r'\.act[12]\.weight_', key)]
    if len(rational) == 4 * len(backbone.blocks):
        _logger.info('A ViT has no rational functions: these start as act_init says')
        starts = {module.act_init for module in backbone.modules() if hasattr(module, 'act_init')}
        if 'swish' in starts:
            _logger.warning(
                'act2 starts as swish, which no ViT was trained with, so that this model does not '
                'compute what the ViT does. For a ViT with GELU, '
                "ffn_cfg=dict(act_init=('identity', 'gelu')) starts as the ViT"
            )
        missing = [key for key in missing if key not in rational]
    if missing:
        _logger.warning('Missing: %s', _summary(missing))


def other_shapes(state: State, own: State) -> dict[str, str]:
    """The entries that have another shape in the model, each with both shapes in words."""
    return {
        key: f'{key}: {list(value.shape)} in the checkpoint, {list(own[key].shape)} in the model'
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    }
