"""State dicts as they are nested in files, and their parts."""

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from kat_mm.errors import UserError

_logger = logging.getLogger(__name__)

# Where training scripts nest the weights, in the order of preference: averages behind what they are
# averages of, but a teacher (DINO, I-JEPA) before its student.
_NESTED = (
    'state_dict',
    'model',
    'module',  # DeepSpeed
    'model_state_dict',
    'state_dict_ema',
    'model_ema',
    'ema',
    'teacher',
    'target_encoder',
    'student',
    'encoder',
)
# What wrappers of a model or of a part put into names.
_WRAPPERS = re.compile(r'(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
# What torch.optim.swa_utils.AveragedModel has beside them.
_COUNTERS = ('n_averaged',)
# Bytes that an expanded tensor may take once it is written out.
_MUCH = 2**30


def find_state_dict(content: dict) -> dict[str, Tensor]:
    """The state dict in the content of a checkpoint file, as tensors, by the names of a bare model.

    Values of numpy become tensors, and those in half precision float32.
    """
    while found := [key for key in _NESTED if isinstance(content.get(key), Mapping)]:
        content = content[found[0]]
        if len(found) > 1:
            _logger.info('The checkpoint has %s; %s is read', ' and '.join(found), found[0])
    state: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in content.items():
        # Arrays and numbers of NumPy, which need not be here.
        if not isinstance(value, Tensor) and getattr(value, 'dtype', 'O') != 'O':
            value = torch.as_tensor(value)
        if isinstance(value, Tensor) and key not in _COUNTERS:
            _check_values(key, value)
            half = value.dtype in (torch.float16, torch.bfloat16)
            state[unwrapped(key)] = value.float() if half else value
    state._metadata = {
        unwrapped(f'{name}.').removesuffix('.'): notes
        for name, notes in getattr(content, '_metadata', {}).items()
    }
    return state


def _check_values(key: str, value: Tensor) -> None:
    """Refuse a tensor that shows a few numbers again and again, and would fill the memory."""
    if value.layout != torch.strided or value.is_meta:
        return
    size, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if size > max(_MUCH, stored):
        raise UserError(
            f'{key} in the checkpoint is a tensor of {list(value.shape)}, {size / 1e9:.0f} GB, of '
            f'which {stored} bytes are there, again and again (expand): these are no weights'
        )


def unwrapped(name: str) -> str:
    """A name without what torch.compile, data parallelism, FSDP and recomputation put into it."""
    name = _WRAPPERS.sub('', name)
    while name.startswith('module.'):
        name = _WRAPPERS.sub('', name.removeprefix('module.'))
    return name


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


def check_storage(state: dict[str, Tensor], path: str | Path) -> None:
    """Refuse tensors with which nothing can be computed: quantised, sparse, or without values.

    Args:
        state: What a file holds.
        path: Where it comes from, for messages.

    Raises:
        UserError: There are such tensors.
    """
    for key, value in state.items():
        if value.is_meta:
            raise UserError(
                f'checkpoint {path} has shapes alone (device meta), such as {key}, and no values. '
                'Save the model where its weights are loaded'
            )
        if value.layout != torch.strided:
            raise UserError(
                f'checkpoint {path} has sparse tensors, such as {key}. Save them as to_dense()'
            )
        if value.is_quantized or (value.is_floating_point() and value.element_size() < 2):
            raise _quantised(key, value, path)


def check_weights(state: dict[str, Tensor], path: str | Path) -> None:
    """Refuse what are no weights: other than floating-point numbers, NaN, or infinite.

    Args:
        state: Weights alone.
        path: Where they come from, for messages.

    Raises:
        UserError: There are such.
    """
    for key, value in state.items():
        if not value.is_floating_point():
            raise _quantised(key, value, path)
    check_finite(state, path)


def _quantised(key: str, value: Tensor, path: str | Path) -> UserError:
    return UserError(
        f'checkpoint {path} has weights of {value.dtype}, such as {key}: they are quantised or of '
        'another kind, and mean nothing without their scales. Take weights in float32, float16 or '
        'bfloat16'
    )


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
