"""Checkpoint files: reading without running code, and writing whole or not at all."""

import argparse
import contextlib
import functools
import os
import pickle
import re
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from pathlib import Path

import torch

from kat_mm.errors import UserError
from kat_mm.installed import is_installed


@functools.cache
def _safe_globals() -> list:
    """What a checkpoint holds besides tensors: arguments of a script, and the logs of mmengine."""
    names = [argparse.Namespace]
    if is_installed('numpy'):
        import numpy as np

        multiarray = np._core.multiarray
        names += [
            np.ndarray,
            np.dtype,
            *(
                getattr(np.dtypes, f'{name}DType')
                for name in ('Bool', 'Int32', 'Int64', 'Float32', 'Float64')
            ),
            *(
                (getattr(multiarray, function), f'numpy.{core}.multiarray.{function}')
                for function in ('_reconstruct', 'scalar')
                for core in ('core', '_core')
            ),
        ]
    if is_installed('mmengine'):
        from mmengine.logging import HistoryBuffer

        def history_buffer_method(owner: type, name: str):
            """The only ``getattr`` that reading may do: log buffers name their methods."""
            if owner is not HistoryBuffer:
                raise pickle.UnpicklingError(f'it asks for {owner}.{name}')
            return getattr(owner, name)

        names += [
            HistoryBuffer,
            (history_buffer_method, 'getattr'),
            (history_buffer_method, 'builtins.getattr'),
        ]
    return names


# The length of the header, and the header.
_SAFETENSORS = re.compile(rb'.{4}\0{4}\{', re.DOTALL)
# A zip archive, or the number with which torch.save began before PyTorch 1.6.
_TORCH_OR_NPZ = re.compile(rb'PK\x03\x04|\x80.{1,13}l\xfc\x9cF\xf9 j\xa8P\x19', re.DOTALL)
# What is found under the names of checkpoints instead, by its beginning.
_NO_CHECKPOINTS = {
    rb'\Z': 'an empty file',
    rb'\s*<': 'an HTML page',
    rb'\x89PNG|\xff\xd8\xff|GIF8': 'an image',
    rb'[\s -~]+\Z': 'text',
    rb'\x80[\x02-\x05]': "a pickle that torch.save did not write, as detectron2's are",
}


def trust_mmengine_checkpoints() -> None:
    """Let ``torch.load`` accept the log buffers of mmengine for the rest of the process.

    Without it mmengine 0.10.7 cannot resume under torch 2.6 and later.
    """
    torch.serialization.add_safe_globals(_safe_globals())


def read_checkpoint(path: str | Path, allow_pickle: bool = False) -> dict:
    """Read a checkpoint file, without running code that it may contain.

    Args:
        path: A local file; :func:`kat_mm.weights.read_weights` takes others too. ``.npz`` is read
            as such, every other name as safetensors or PyTorch's format, as it begins.
        allow_pickle: Unpickle whatever is in the file, which runs the code that it contains. Only
            for files whose source is trusted. Default: False.

    Returns:
        The content: a state dict, or a dict that nests one.

    Raises:
        UserError: The file is missing, truncated, no checkpoint, or needs arbitrary unpickling.
    """
    path = str(path)
    with torch.serialization.safe_globals(_safe_globals()):
        try:
            content = _read(path, allow_pickle)
        except UserError:
            raise
        except (FileNotFoundError, IsADirectoryError) as error:
            problem = 'is a folder' if isinstance(error, IsADirectoryError) else 'does not exist'
            raise UserError(
                f'checkpoint {path} {problem}; give the path of a .pth, .safetensors or .npz file'
            ) from None
        except Exception as error:
            if isinstance(error, ImportError | AttributeError) and allow_pickle:
                raise UserError(
                    f'checkpoint {path} holds objects of classes that are not here: {error}. Read '
                    'it where the code that wrote it is installed'
                ) from error
            if isinstance(error, pickle.UnpicklingError) and not allow_pickle:
                raise UserError(
                    f'checkpoint {path} holds more than tensors, and reading that would run code: '
                    f'{_reason(error)}. If you trust its source, take the weights out of it: '
                    f'python tools/convert_checkpoint.py {path} OUT --allow-pickle'
                ) from error
            raise UserError(
                f'checkpoint {path} cannot be read; it is truncated or no checkpoint. Get the '
                f'file again ({type(error).__name__}: {_reason(error)})'
            ) from error
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path} holds a {type(content).__name__}, not a state dict')
    return content


def _read(path: str, allow_pickle: bool) -> dict:
    with open(path, 'rb') as file:
        beginning = file.read(64)
    if _SAFETENSORS.match(beginning):
        from safetensors.torch import load_file

        return load_file(path)
    if not _TORCH_OR_NPZ.match(beginning):
        kinds = (kind for start, kind in _NO_CHECKPOINTS.items() if re.match(start, beginning))
        raise UserError(
            f'checkpoint {path} is {next(kinds, "of an unknown format")}, no checkpoint: it begins '
            f'with {beginning[:30]}. Get it again, as a file of torch.save, .safetensors or .npz'
        )
    if path.endswith('.npz'):
        import numpy as np

        try:
            with np.load(path, allow_pickle=allow_pickle) as arrays:
                return {
                    key: torch.from_numpy(array)
                    for key, array in arrays.items()
                    if array.dtype.kind not in 'OSU'  # objects and strings
                }
        except ValueError as error:
            if 'allow_pickle' in str(error):
                raise pickle.UnpicklingError('it holds Python objects') from error
            raise
    return torch.load(path, map_location='cpu', weights_only=not allow_pickle)


def _reason(error: Exception) -> str:
    """What PyTorch's long messages say is wrong, without the advice to read the file unsafely."""
    text = str(error) or 'no details'
    wanted = re.search(r'GLOBAL (?:(\S+)\.)?(\w+) ', text)
    if wanted:
        # A pickle has Python 2's names of modules, and PyTorch leaves out the one of builtins.
        return f'it wants {IMPORT_MAPPING.get(wanted[1], wanted[1] or "builtins")}.{wanted[2]}'
    text = text.rpartition('WeightsUnpickler error: ')[2].strip()
    return text.splitlines()[0].partition(' In PyTorch 2.6')[0]


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
