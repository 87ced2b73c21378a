"""State dicts as they are nested in files, and their parts."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kat_mm.errors import UserError

# Where training scripts nest the weights, in the order of preference.
_NESTED = ('state_dict', 'model', 'state_dict_ema')


def find_state_dict(content: dict) -> dict[str, Tensor]:
    """The state dict in the content of a checkpoint file, without ``module.`` prefixes."""
    for key in _NESTED:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = keep_entries(content, lambda key: isinstance(content[key], Tensor))
    return strip_prefix(state, 'module.') or state


def keep_entries(state: dict, condition: Callable[[str], bool]) -> dict:
    """The entries whose key meets a condition, with the modules' metadata."""
    kept = OrderedDict((key, value) for key, value in state.items() if condition(key))
    kept._metadata = getattr(state, '_metadata', {})
    return kept


def strip_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below ``prefix``, without it, in keys and in the modules' metadata."""
    stripped = OrderedDict(
        (key.removeprefix(prefix), value) for key, value in state.items() if key.startswith(prefix)
    )
    stripped._metadata = {
        f'{name}.'.removeprefix(prefix).removesuffix('.'): value
        for name, value in getattr(state, '_metadata', {}).items()
        if f'{name}.'.startswith(prefix)
    }
    return stripped


def add_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same entries below ``prefix``, in keys and in the modules' metadata."""
    prefixed = OrderedDict((prefix + key, value) for key, value in state.items())
    prefixed._metadata = {
        f'{prefix}{name}'.removesuffix('.'): value
        for name, value in getattr(state, '_metadata', {}).items()
    }
    return prefixed


def check_finite(state: dict[str, Tensor], path: str | Path) -> None:
    """Refuse weights that are NaN or infinite: all that is computed or drawn from them is too.

    Args:
        state: The weights.
        path: Where they come from, for messages.

    Raises:
        UserError: There are such weights.
    """
    wrong = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if wrong:
        raise UserError(
            f'checkpoint {path} has weights that are NaN or infinite, in {len(wrong)} of '
            f'{len(state)} tensors, the first {wrong[0]}: the training that wrote it diverged. '
            'Take an earlier one'
        )
