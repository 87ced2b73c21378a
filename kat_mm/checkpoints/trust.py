"""Files that may run code as they are read: who reads them, and what is read of them instead.

A pickle, as which ``torch.save`` writes, may call anything. Here it may hold tensors, arrays and
what the logs of mmengine consist of. That holds

- for :func:`kat_mm.checkpoints.read_checkpoint`;
- for whatever OpenMMLab's libraries read for a model that holds a KAT, once there is one; what they
  read for other models of the process is read as it would be;
- for every file in a process of our tools.

Libraries read by ``torch.load`` and by mmengine's handler of .pkl files. Both are replaced when the
first KAT is made, by functions that ask for whom the file is read, and are the libraries' own for
everybody else.
"""

import argparse
import contextlib
import functools
import pickle
import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from kat_mm.errors import UserError
from kat_mm.installed import is_installed

_LIBRARIES = ('kat_mm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
# What their functions call a model that a file is read for, or whatever has it.
_OWNERS = ('self', 'model', 'module', 'runner')

_torch_load = torch.load
_guarded: tuple[type, ...] = ()
# Of the whole process: None is "as for whom it is read".
_trusted: bool | None = None


def trust_files(trusted: bool) -> None:
    """Whether this process unpickles the files that it reads, whoever reads them for whatever.

    Args:
        trusted: True: files run the code that they hold. False: none does, and files that would
            are refused.
    """
    global _trusted
    _trusted = trusted
    _replace_readers()


def guard_files_of(model_type: type[nn.Module]) -> None:
    """Refuse files that hold code for every model that holds a module of this type."""
    global _guarded
    if model_type not in _guarded:
        _guarded += (model_type,)
        _replace_readers()


def load(file, unpickle: bool = False, **options):
    """``torch.load``, without running code unless that is wished.

    Args:
        file: As for ``torch.load``.
        unpickle: Whether to run the code that is in it. Default: False.
        options: As for ``torch.load``.

    Raises:
        pickle.UnpicklingError: It holds more than may be read.
    """
    if unpickle or is_trusted():
        return _torch_load(file, **options, weights_only=False)
    with _known_globals():
        content = _torch_load(file, **options, weights_only=True)
    meta = content.get('meta') if isinstance(content, dict) else None
    if isinstance(meta, dict) and any(function == 'resume' for _, function in _callers()):
        # mmengine runs it as Python, to find in it how many GPUs there were.
        meta.pop('config', None)
    return content


def is_trusted() -> bool:
    """Whether every file that this process reads may run code."""
    return bool(_trusted)


@contextlib.contextmanager
def named_errors(path: str | Path, unpickle: bool = False) -> Iterator[None]:
    """Whatever fails while a checkpoint file is read becomes a UserError that names it.

    Args:
        path: The file.
        unpickle: Whether code in it is run. Default: False.
    """
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        problem = 'is a folder' if isinstance(error, IsADirectoryError) else 'does not exist'
        raise UserError(
            f'checkpoint {path} {problem}; give the path of a .pth, .safetensors or .npz file'
        ) from None
    except Exception as error:
        unpickle = unpickle or is_trusted()
        if isinstance(error, ImportError | AttributeError) and unpickle:
            raise UserError(
                f'checkpoint {path} holds objects of classes that are not here: {error}. Read '
                'it where the code that wrote it is installed'
            ) from error
        if isinstance(error, pickle.UnpicklingError) and not unpickle:
            raise UserError(
                f'checkpoint {path} holds more than tensors, and reading that would run code: '
                f'{_reason(error)}. If you trust its source, take the weights out of it: '
                f'python tools/convert_checkpoint.py {path} OUT --allow-pickle'
            ) from error
        raise UserError(
            f'checkpoint {path} cannot be read; it is truncated or no checkpoint. Get the '
            f'file again ({type(error).__name__}: {_reason(error)})'
        ) from error


def _reason(error: Exception) -> str:
    """What PyTorch's long messages say is wrong, without the advice to read the file unsafely."""
    text = str(error) or 'no details'
    wanted = re.search(r'GLOBAL (?:(\S+)\.)?(\w+) ', text)
    if wanted:
        # A pickle has Python 2's names of modules, and PyTorch leaves out the one of builtins.
        return f'it wants {IMPORT_MAPPING.get(wanted[1], wanted[1] or "builtins")}.{wanted[2]}'
    text = text.rpartition('WeightsUnpickler error: ')[2].strip()
    return text.splitlines()[0].partition(' In PyTorch 2.6')[0]


# Who reads


def _callers() -> Iterator[tuple[list, str]]:
    """Of each function of the libraries that is at work, from within: owners, and its name."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get('__name__', '').partition('.')[0] in _LIBRARIES:
            names = frame.f_locals
            yield [names[name] for name in _OWNERS if name in names], frame.f_code.co_name
        frame = frame.f_back


def _is_guarded() -> bool:
    """Whether what is read now is read for a model, or by a process, that runs no files' code."""
    if _trusted is not None:
        return not _trusted
    return any(_holds_guarded(owner) for owners, _ in _callers() for owner in owners)


def _holds_guarded(owner) -> bool:
    if not isinstance(owner, nn.Module):  # a Runner
        owner = vars(owner).get('model') if hasattr(owner, '__dict__') else None
    if not isinstance(owner, nn.Module) or '_modules' not in vars(owner):
        return False
    return any(isinstance(module, _guarded) for module in owner.modules())


# What they read by


@functools.cache
def _replace_readers() -> None:
    global _torch_load
    _torch_load = torch.load  # be it replaced by somebody else meanwhile
    torch.load = _load_for_caller
    if is_installed('mmengine'):
        from mmengine.fileio.handlers import PickleHandler

        PickleHandler.load_from_fileobj = _reading_data(PickleHandler.load_from_fileobj)


@functools.wraps(_torch_load)
def _load_for_caller(f, *args, **kwargs):
    if not _is_guarded():
        return _torch_load(f, *args, **kwargs)
    # Positional are map_location and pickle_module.
    options = dict(zip(('map_location', 'pickle_module'), args, strict=False), **kwargs)
    options.pop('pickle_module', None)
    options.pop('weights_only', None)
    name = f if isinstance(f, str | Path) else getattr(f, 'name', 'in memory')
    with named_errors(name):
        return load(f, **options)


def _reading_data(read):
    @functools.wraps(read)
    def read_data(handler, file, **kwargs):
        if not _is_guarded():
            return read(handler, file, **kwargs)
        # mmengine hands on the bytes, and knows the name.
        path = sys._getframe(1).f_locals.get('file', 'in memory')
        try:
            return _DataUnpickler(file, **kwargs).load()
        except pickle.UnpicklingError as error:
            raise UserError(
                f'{path} holds more than arrays and boxes, and reading that would run code: '
                f'{error}. If you trust its source, start the tool with --allow-pickle'
            ) from error

    return read_data


class _DataUnpickler(pickle.Unpickler):
    """Reads arrays, and mmengine's structures of them."""

    def find_class(self, module: str, name: str):
        name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        if name not in _data_globals():
            raise pickle.UnpicklingError(f'it wants {name}')
        return _data_globals()[name]


@functools.cache
def _data_globals() -> dict:
    from _codecs import encode  # as which protocol 2 writes bytes

    from mmengine.structures import BaseDataElement, InstanceData

    known = dict(reversed(item) for item in _checkpoint_globals() if isinstance(item, tuple))
    structures = BaseDataElement, InstanceData
    for item in (*_checkpoint_globals(), *structures, OrderedDict, set, frozenset, encode):
        if not isinstance(item, tuple):
            known[f'{item.__module__}.{item.__qualname__}'] = item
            # Where its package shows it.
            known[f'{item.__module__.rpartition(".")[0]}.{item.__qualname__}'] = item
    return known


@contextlib.contextmanager
def _known_globals() -> Iterator[None]:
    """What torch may read besides tensors: ours, and what the user added to it."""
    before = torch.serialization.get_safe_globals()
    # With mmengine's own getattr a file gets at any module, and can put functions into it.
    kept = [item for item in before if item is not getattr]
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals([*kept, *_checkpoint_globals()])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@functools.cache
def _checkpoint_globals() -> list:
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
            if owner is not HistoryBuffer or name.startswith('_'):
                raise pickle.UnpicklingError(f'it asks for {name} of {owner}')
            return getattr(owner, name)

        names += [
            HistoryBuffer,
            (history_buffer_method, 'getattr'),
            (history_buffer_method, 'builtins.getattr'),
        ]
    return names
