"""From every layout to the official KAT's, and from that to those that others read."""

import logging
import math
import re
from collections import OrderedDict
from pathlib import Path

import torch

from kat_mm.errors import UserError, some
from kat_mm.fits import get_fit

from .layouts import (
    LAYOUTS,
    State,
    count_blocks,
    find_prefixes,
    guess_other,
    recognise,
    rename,
)
from .state_dict import (
    add_prefix,
    check_storage,
    check_weights,
    find_state_dict,
    keep_entries,
    strip_prefix,
)

_logger = logging.getLogger(__name__)

DEFAULT_PREFIX = 'backbone.'
_GAMMA = re.compile(r'(blocks\.\d+\.)ls([12])\.gamma')
# Where mmpretrain's classifiers have the head that the official layout calls `head`.
MMPRETRAIN_HEAD = 'head.layers.'


def split_model(state: State, prefix: str, path: str | Path) -> tuple[State, State]:
    """The entries of a backbone, without what stands before their names, and the rest.

    Args:
        state: The state dict of a file.
        prefix: Where the backbone is looked for first. A name other than the default must be there.
        path: Where it comes from, for messages.

    Raises:
        UserError: There are several, of which none is a teacher.
    """
    found = find_prefixes(state)
    inside = [name for name in found if name.startswith(prefix)]
    if prefix != DEFAULT_PREFIX and not inside and found:
        raise UserError(
            f'checkpoint {path} has no backbone below prefix={prefix!r}, but below '
            f'{" and ".join(map(repr, found))}'
        )
    found = [prefix] if prefix in inside else inside or found
    if len(found) > 1:
        teachers = [name for name in found if 'teacher' in name]
        if len(teachers) != 1:
            raise UserError(
                f'checkpoint {path} has several backbones, below {" and ".join(map(repr, found))}; '
                f'choose one, for example by prefix={found[0]!r} in init_cfg'
            )
        found = teachers
    if not found:  # whose layout is unknown
        return strip_prefix(state, prefix) or state, OrderedDict()
    if found[0] not in ('', prefix):
        _logger.info('The backbone is read below %r of the checkpoint', found[0])
    backbone = strip_prefix(state, found[0])
    rest = keep_entries(state, lambda key: not key.startswith(found[0]))
    # Where transformers has the head, beside the backbone.
    return backbone, rename(rest, {r'classifier\.(weight|bias)': rf'{MMPRETRAIN_HEAD}head.\1'})


def convert_backbone(state: State, path: str | Path) -> State:
    """Convert the weights of a backbone, perhaps with ``head``, to the official layout.

    Args:
        state: In any layout of :data:`~kat_mm.checkpoints.layouts.LAYOUTS`, without prefix.
        path: Where it comes from, for messages.

    Raises:
        UserError: It has none of these layouts, or values that are no weights.
    """
    name = recognise(state)
    if name is None:
        other, keys = guess_other(state) or ('', list(state))
        raise UserError(
            f'checkpoint {path} has no weights for the backbone, or is of an unknown layout: keys '
            f'such as {some(keys, 3)} '
            + (
                f'look like those of a {other}. '
                if other
                else 'belong to no layout that is known. '
            )
            + f'Known are {"; ".join(layout.title for layout in LAYOUTS.values())}'
        )
    check_storage(state, path)
    try:
        official = LAYOUTS[name].to_official(state)
    except KeyError as error:
        raise UserError(
            f'checkpoint {path} is incomplete: as a {LAYOUTS[name].title} it must have {error}'
        ) from error
    except UserError as error:
        raise UserError(f'checkpoint {path} cannot be converted: {error}') from error
    check_weights(official, path)
    return official


def to_official(content: dict, path: str | Path, prefix: str = 'backbone.') -> tuple[State, list]:
    """Convert the content of a checkpoint file to one state dict in the official layout.

    Args:
        content: As :func:`~kat_mm.checkpoints.read_checkpoint` returns it.
        path: Where it comes from, for messages.
        prefix: Where the backbone's keys are in a file that has more.

    Returns:
        The state dict, with ``head`` where there is a classification head, and the keys that were
        left out because they belong to other parts of a model.

    Raises:
        UserError: It has no known layout, or weights that are not finite.
    """
    backbone, rest = split_model(find_state_dict(content), prefix, path)
    official = convert_backbone(backbone, path)
    head = strip_prefix(rest, f'{MMPRETRAIN_HEAD}head.')
    official.update(add_prefix(head, 'head.'))
    return official, [key for key in rest if not key.startswith(f'{MMPRETRAIN_HEAD}head.')]


def _to_kat_mm(state: State) -> State:
    heads = keep_entries(state, lambda key: key.startswith('head.'))
    backbone = keep_entries(state, lambda key: key not in heads)
    model = add_prefix(backbone, 'backbone.')
    model.update((MMPRETRAIN_HEAD + key, value) for key, value in heads.items())
    return model


def fold_layer_scale(state: State) -> State:
    """The same function without LayerScale: gamma (W x + b) = (gamma W) x + gamma b."""
    folded = keep_entries(state, lambda key: not _GAMMA.fullmatch(key))
    for key, gamma in state.items():
        match = _GAMMA.fullmatch(key)
        if not match:
            continue
        block, branch = match.groups()
        linear = block + {'1': 'attn.proj', '2': 'mlp.fc2'}[branch]
        folded[f'{linear}.weight'] = gamma[:, None] * folded[f'{linear}.weight']
        if f'{linear}.bias' in folded:
            folded[f'{linear}.bias'] = gamma * folded[f'{linear}.bias']
    return folded


WRITERS = {
    'kat': fold_layer_scale,
    'flashkat': lambda state: rename(
        fold_layer_scale(state), {r'(.*\.act[12])\.weight_(numerator|denominator)': r'\1.\2_v'}
    ),
    'kat_mm': _to_kat_mm,
}


def from_official(state: State, layout: str) -> State:
    """Bring a state dict of the official layout into another; exact to the bit, both ways.

    But for LayerScale, which the official KAT has not: there it is multiplied into the weights.

    Args:
        state: In the official layout.
        layout: 'kat' (the official itself), 'flashkat', or 'kat_mm' (a classifier of this project).
    """
    return WRITERS[layout](state)


def to_kat(state: State, act: str | None = None, num_groups: int = 8) -> State:
    """A ViT as the KAT that starts as it: with rational functions that are fits of its own.

    act1 is the identity, exactly, and act2 the fit of ``act``, of order (5, 4); see
    :mod:`kat_mm.fits`. Weights of a gated feed-forward become those of
    :class:`kat_mm.layers.GatedGRKAN`.

    Args:
        state: A ViT in the official layout.
        act: Its activation: 'gelu', 'gelu_tanh', 'quick_gelu' or 'silu'. Default: 'gelu', or
            'silu' of a gated one.
        num_groups: Groups of the denominators; must divide the channels.

    Raises:
        UserError: It is a KAT, or has no such form.
    """
    first = 'blocks.0.mlp.'
    channels, hidden = state[f'{first}fc1.weight'].shape[1], state[f'{first}fc2.weight'].shape[1]
    gated = state[f'{first}fc1.weight'].shape[0] == 2 * hidden
    if f'{first}act1.weight_numerator' in state:
        raise UserError('it is a KAT already')
    if not gated and f'{first}norm.weight' in state:
        raise UserError(f'its feed-forward has a norm inside ({first}norm), which GRKAN has not')
    if channels % num_groups or hidden % num_groups:
        raise UserError(
            f'{num_groups} groups do not divide its {channels} and {hidden} channels; choose a '
            f'divisor of {math.gcd(channels, hidden)}'
        )
    kat = keep_entries(state, lambda key: True)
    for index in range(count_blocks(state)):
        for name, function in (
            ('act1', 'identity'),
            ('act2', act or ('silu' if gated else 'gelu')),
        ):
            fit, key = get_fit(function), f'blocks.{index}.mlp.{name}.weight_'
            kat[f'{key}numerator'] = torch.tensor([fit.numerator])
            kat[f'{key}denominator'] = torch.tensor([fit.denominator]).repeat(num_groups, 1)
    return kat


def describe(state: State) -> str:
    """What a state dict of the official layout is a model of, in words."""
    width = state['patch_embed.proj.weight'].shape[0]
    patch = state['patch_embed.proj.weight'].shape[-1]
    kind = 'KAT' if 'blocks.0.mlp.act1.weight_numerator' in state else 'ViT'
    return (
        f'a {kind} of width {width} with {count_blocks(state)} blocks and patches of {patch} pixels'
    )
