"""Checkpoint files: reading without running code, and writing whole or not at all."""

import argparse
import contextlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from kat_mm.errors import UserError


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


def read_checkpoint(path: str | Path, allow_pickle: bool = False) -> dict:
    """Read a checkpoint file, without running code that it may contain.

    Args:
        path: A local file, or a URL (http or https), which is downloaded and kept. ``.npz`` and
            ``.safetensors`` are read as such, every other name as PyTorch's format.
        allow_pickle: Unpickle whatever is in the file, which runs the code that it contains. Only
            for files whose source is trusted. Default: False.

    Returns:
        The content: a state dict, or a dict that nests one.

    Raises:
        UserError: The file is missing, truncated, no checkpoint, or needs arbitrary unpickling.
    """
    path = str(path)
    with torch.serialization.safe_globals(_MMENGINE_GLOBALS):
        try:
            content = _read(path, allow_pickle)
        except FileNotFoundError:
            raise UserError(
                f'checkpoint {path} does not exist; give the path of a .pth, .safetensors or .npz '
                'file'
            ) from None
        except pickle.UnpicklingError as error:
            raise UserError(
                f'checkpoint {path} is no file of tensors, or it would run code when it is read: '
                f'{_first_line(error)}. If you trust its source, take the weights out of it: '
                f'python tools/convert_checkpoint.py {path} OUT --allow-pickle'
            ) from error
        except Exception as error:
            raise UserError(
                f'checkpoint {path} cannot be read; it is truncated or no checkpoint. Get the '
                f'file again ({type(error).__name__}: {_first_line(error)})'
            ) from error
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path} holds a {type(content).__name__}, not a state dict')
    return content


def _read(path: str, allow_pickle: bool) -> dict:
    if path.startswith(('http://', 'https://')):
        folder = Path(torch.hub.get_dir(), 'checkpoints')
        folder.mkdir(parents=True, exist_ok=True)
        local = folder / path.partition('?')[0].rpartition('/')[2]
        if not local.exists():
            torch.hub.download_url_to_file(path, str(local))
        path = str(local)
    if path.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(path)
    if path.endswith('.npz'):
        try:
            with np.load(path, allow_pickle=allow_pickle) as arrays:
                return {key: torch.from_numpy(array) for key, array in arrays.items()}
        except ValueError as error:
            if 'allow_pickle' in str(error):
                raise pickle.UnpicklingError('it holds Python objects') from error
            raise
    return torch.load(path, map_location='cpu', weights_only=not allow_pickle)


def _first_line(error: Exception) -> str:
    """The line of PyTorch's long messages that says what is wrong, or else the first."""
    lines = str(error).splitlines() or ['no details']
    return next((line.strip() for line in lines if 'Unsupported' in line), lines[0])


def write_checkpoint(state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Write a state dict to a .pth or .safetensors file, whole or not at all.

    Raises:
        UserError: The file's name has another ending, it cannot be written, or its format cannot
            hold the state dict.
    """
    path = Path(path)
    if path.suffix not in ('.pth', '.safetensors'):
        raise UserError(f'{path} must end in .pth or .safetensors, which names the format')
    grids = {notes.get('grid_size') for notes in getattr(state, '_metadata', {}).values()}
    if path.suffix == '.safetensors' and any(grid and grid[0] != grid[1] for grid in grids):
        raise UserError(
            f'{path}: a safetensors file cannot tell the grid of a position embedding, and this '
            'one is not square; write a .pth file'
        )
    # Copies: of a view torch.save would write all that it is a view of.
    copy = OrderedDict((key, value.contiguous().clone()) for key, value in state.items())
    copy._metadata = getattr(state, '_metadata', {})
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.safetensors':
            from safetensors.torch import save_file

            save_file(copy, temporary)
        else:
            torch.save(copy, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f'cannot write {path}: {error}') from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
