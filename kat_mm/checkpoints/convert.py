"""From every layout to the official KAT's, and from that to those that others read."""

from collections import OrderedDict
from pathlib import Path

from kat_mm.errors import UserError

from .layouts import LAYOUTS, State, guess_other, recognise, rename
from .state_dict import add_prefix, check_finite, find_state_dict, keep_entries, strip_prefix

# Where mmpretrain's classifiers have the head that the official layout calls `head`.
MMPRETRAIN_HEAD = 'head.layers.'


def split_model(state: State, prefix: str) -> tuple[State, State]:
    """The backbone's entries without ``prefix``, and the rest; or all, if none has the prefix."""
    backbone = strip_prefix(state, prefix)
    if not backbone:
        return state, OrderedDict()
    return backbone, keep_entries(state, lambda key: not key.startswith(prefix))


def convert_backbone(state: State, path: str | Path) -> State:
    """Convert the weights of a backbone, perhaps with ``head``, to the official layout.

    Args:
        state: In any layout of :data:`~kat_mm.checkpoints.layouts.LAYOUTS`, without prefix.
        path: Where it comes from, for messages.

    Raises:
        UserError: It has none of these layouts, or tokens that KAT lacks.
    """
    name = recognise(state)
    if name is None:
        other, keys = guess_other(state) or ('', list(state))
        raise UserError(
            f'checkpoint {path} has no weights for the backbone, or is of an unknown layout: keys '
            f'such as {", ".join(keys[:3]) or "(none)"} '
            + (
                f'look like those of a {other}. '
                if other
                else 'belong to no layout that is known. '
            )
            + f'Known are {"; ".join(layout.title for layout in LAYOUTS.values())}'
        )
    try:
        return LAYOUTS[name].to_official(state)
    except KeyError as error:
        raise UserError(
            f'checkpoint {path} is incomplete: as a {LAYOUTS[name].title} it must have {error}'
        ) from error
    except UserError as error:
        raise UserError(f'checkpoint {path} cannot be converted: {error}') from error


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
    backbone, rest = split_model(find_state_dict(content), prefix)
    official = convert_backbone(backbone, path)
    check_finite(official, path)
    head = strip_prefix(rest, f'{MMPRETRAIN_HEAD}head.')
    official.update(add_prefix(head, 'head.'))
    return official, [key for key in rest if not key.startswith(f'{MMPRETRAIN_HEAD}head.')]


def _to_kat_mm(state: State) -> State:
    heads = keep_entries(state, lambda key: key.startswith('head.'))
    backbone = keep_entries(state, lambda key: key not in heads)
    model = add_prefix(backbone, 'backbone.')
    model.update((MMPRETRAIN_HEAD + key, value) for key, value in heads.items())
    return model


WRITERS = {
    'kat': lambda state: state,
    'flashkat': lambda state: rename(
        state, {r'(.*\.act[12])\.weight_(numerator|denominator)': r'\1.\2_v'}
    ),
    'kat_mm': _to_kat_mm,
}


def from_official(state: State, layout: str) -> State:
    """Bring a state dict of the official layout into another; exact to the bit, both ways.

    Args:
        state: In the official layout.
        layout: 'kat' (the official itself), 'flashkat', or 'kat_mm' (a classifier of this project).
    """
    return WRITERS[layout](state)


def describe(state: State) -> str:
    """What a state dict of the official layout is a model of, in words."""
    width = state['patch_embed.proj.weight'].shape[0]
    patch = state['patch_embed.proj.weight'].shape[-1]
    kind = 'KAT' if 'blocks.0.mlp.act1.weight_numerator' in state else 'ViT'
    return f'a {kind} of width {width} with {depth(state)} blocks and patches of {patch} pixels'


def depth(state: State) -> int:
    """Number of blocks in a state dict of the official layout."""
    return 1 + max(int(key.split('.')[1]) for key in state if key.startswith('blocks.'))
