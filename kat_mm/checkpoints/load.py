"""Read a checkpoint file into a KAT backbone."""

import argparse
import logging
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from kat_mm.errors import UserError

# Where training scripts nest the weights, in the order of preference.
_NESTED = ('state_dict', 'model', 'state_dict_ema')


def _history_buffer_method(owner: type, name: str):
    """The only ``getattr`` that reading a checkpoint may do: log buffers name their methods."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'it asks for {owner}.{name}')
    return getattr(owner, name)


# What a checkpoint of mmengine holds besides tensors, in its logs.
_MMENGINE_GLOBALS = [
    # As training scripts save their arguments.
    argparse.Namespace,
    HistoryBuffer,
    (_history_buffer_method, 'getattr'),
    (_history_buffer_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *(
        getattr(np.dtypes, f'{name}DType')
        for name in ('Bool', 'Int32', 'Int64', 'Float32', 'Float64')
    ),
    (np._core.multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
    (np._core.multiarray._reconstruct, 'numpy._core.multiarray._reconstruct'),
    (np._core.multiarray.scalar, 'numpy.core.multiarray.scalar'),
    (np._core.multiarray.scalar, 'numpy._core.multiarray.scalar'),
]


def trust_mmengine_checkpoints() -> None:
    """Let ``torch.load`` accept the log buffers of mmengine for the rest of the process.

    Without it mmengine 0.10.7 cannot resume under torch 2.6 and later.
    """
    torch.serialization.add_safe_globals(_MMENGINE_GLOBALS)


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint file, without running code that it may contain.

    Args:
        path: A local file, or a URL (http or https), which is downloaded and kept.

    Returns:
        The content: a state dict, or a dict that nests one.

    Raises:
        UserError: The file is missing, truncated, no checkpoint, or needs arbitrary unpickling.
    """
    path = str(path)
    with torch.serialization.safe_globals(_MMENGINE_GLOBALS):
        try:
            if path.startswith(('http://', 'https://')):
                content = torch.hub.load_state_dict_from_url(
                    path, map_location='cpu', weights_only=True
                )
            elif path.endswith('.safetensors'):
                from safetensors.torch import load_file

                content = load_file(path)
            else:
                content = torch.load(path, map_location='cpu', weights_only=True)
        except FileNotFoundError:
            raise UserError(
                f'checkpoint {path} does not exist; give the path of a .pth or .safetensors file'
            ) from None
        except pickle.UnpicklingError as error:
            raise UserError(
                f'checkpoint {path} is no file of tensors, or it would run code when it is read: '
                f'{_first_line(error)}'
            ) from error
        except Exception as error:
            raise UserError(
                f'checkpoint {path} cannot be read; it is truncated or no checkpoint. Get the '
                f'file again ({type(error).__name__}: {_first_line(error)})'
            ) from error
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path} holds a {type(content).__name__}, not a state dict')
    return content


def _first_line(error: Exception) -> str:
    """The line of PyTorch's long messages that says what is wrong, or else the first."""
    lines = str(error).splitlines() or ['no details']
    return next((line.strip() for line in lines if 'Unsupported' in line), lines[0])


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


def load_pretrained(backbone: nn.Module, path: str | Path, prefix: str = 'backbone.') -> None:
    """Load the weights of a backbone, alone or as part of a model, into ``backbone``.

    Understands the layout of the official KAT code and of models of this project. A position
    embedding of another size is resized. Heads are left out; whatever else is missing or left over
    is listed in the log.

    Args:
        backbone: The model to load into.
        path: The checkpoint file; see :func:`read_checkpoint`.
        prefix: Where the backbone's keys are in a file that has more.

    Raises:
        UserError: The file cannot be read, has weights of other shapes, or is of another layout.
    """
    state = find_state_dict(read_checkpoint(path))
    state = strip_prefix(state, prefix) or state
    heads = [key for key in state if key.startswith('head.')]
    state = keep_entries(state, lambda key: key not in heads)
    own = backbone.state_dict()
    # A ViT's checkpoint has no rational functions; these keep their start.
    lacking = [
        key for key in own.keys() - state.keys() if '.act1.' not in key and '.act2.' not in key
    ]
    if 2 * len(lacking) > len(own):  # a key or two in common is chance
        raise UserError(
            f'checkpoint {path} has no weights for the backbone, or is of an unknown layout: it '
            f'has keys like {", ".join(list(state)[:3]) or "(none)"}, the backbone has keys like '
            f'{", ".join(sorted(lacking)[:3])}. The layout of the official KAT code is read'
        )
    try:
        missing, left_over = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        shapes = '; '.join(line.strip() for line in str(error).splitlines()[1:4])
        raise UserError(
            f'checkpoint {path} has weights of other shapes than the backbone: {shapes}. '
            'Choose the arch and patch size that it was trained with'
        ) from error
    print_log(f'Loaded {len(own) - len(missing)} of {len(own)} tensors from {path}', 'current')
    for what, keys in (('Left out', heads), ('Missing', missing), ('Left over', left_over)):
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
