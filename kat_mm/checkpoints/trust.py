"""Files that may run code as they are read: who reads them, and what is read of them instead.

A pickle, as which ``torch.save`` writes, may call anything. Here it may hold tensors, arrays and
what the logs of mmengine consist of. That holds

- for :func:`kat_mm.checkpoints.read_checkpoint`;
- for whatever OpenMMLab's libraries read for a model that holds a KAT, or for a config that names
  one; what they read for other models of the process is read as it would be;
- for every file in a process of our tools.

Libraries read by ``torch.load`` and by mmengine's handlers of .pkl and .yaml files. These are
replaced when the first KAT is made or mmengine reads the first checkpoint, by functions that ask
for whom the file is read, and are the libraries' own for everybody else.
"""

import contextlib
import functools
import io
import os
import pickle
import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace

import torch
from torch import nn

from kat_mm.checkpoints.archives import check_archive, check_checksums
from kat_mm.checkpoints.data_files import (
    NotData,
    checkpoint_globals,
    read_array,
    read_yaml,
    unpickle,
)
from kat_mm.errors import UserError
from kat_mm.installed import after_import, is_installed

_LIBRARIES = ('kat_mm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
# What their functions call a model that a file is read for, whatever has it, or its config.
_OWNERS = ('self', 'model', 'module', 'runner', 'cfg', 'config')

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
    guard_readers()


def guard_files_of(model_type: type[nn.Module]) -> type[nn.Module]:
    """Refuse files that hold code for every model that holds a module of this type.

    From :func:`guard_readers` on.
    """
    global _guarded
    _guarded += (model_type,)
    return model_type


def load(file, unpickle: bool = False, **options):
    """``torch.load``, without running code unless that is wished.

    Args:
        file: As for ``torch.load``.
        unpickle: Whether to run the code that is in it. Default: False.
        options: As for ``torch.load``.

    Raises:
        pickle.UnpicklingError: It holds more than may be read.
        UserError: It is damaged, or fills the memory.
    """
    if isinstance(file, str | os.PathLike):
        check_archive(file)
        check_checksums(file)
    if unpickle or is_trusted():
        return _torch_load(file, **options, weights_only=False)
    with _known_globals():
        content = _torch_load(file, **options, weights_only=True)
    meta = content.get('meta') if isinstance(content, dict) else None
    for function, names in _callers():
        if function == 'resume' and isinstance(meta, dict):
            # mmengine runs it as Python, to find in it how many GPUs there were.
            meta.pop('config', None)
            _name_own_files(content, file)
        elif function == '_init_model' and names.get('cfg') == {}:
            raise UserError(
                f'without a config the inferencer would run the one in {_name(file)}, which is '
                'code; give it the config too (model=...)'
            )
    return content


def _name_own_files(content: dict, file) -> None:
    """Have a checkpoint name files of its own folder alone, which mmengine removes for new ones.

    A folder that was moved or copied names its own ones thereby.
    """
    hub = content.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    if not isinstance(info, dict) or not isinstance(file, str | os.PathLike):
        return
    folder = os.path.dirname(file)
    for key in info:
        if isinstance(key, str) and key.startswith(('best_ckpt', 'last_ckpt')):
            info[key] = os.path.join(folder, os.path.basename(str(info[key])))
    if 'keep_ckpt_ids' in info:  # numbers, of which it makes names
        info['keep_ckpt_ids'] = [step for step in info['keep_ckpt_ids'] if isinstance(step, int)]


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


def _callers() -> Iterator[tuple[str, dict]]:
    """Each function of the libraries that is at work, from within: its name, its variables."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get('__name__', '').partition('.')[0] in _LIBRARIES:
            yield frame.f_code.co_name, frame.f_locals
        frame = frame.f_back


def _is_guarded() -> bool:
    """Whether what is read now is read for a model, or by a process, that runs no files' code."""
    if _trusted is not None:
        return not _trusted
    return any(
        _holds_guarded(names[owner])
        for _, names in _callers()
        for owner in _OWNERS
        if owner in names
    )


def _holds_guarded(owner) -> bool:
    if _names_guarded(owner):
        return True
    if not isinstance(owner, nn.Module):  # a Runner
        owner = vars(owner).get('model') if hasattr(owner, '__dict__') else None
    if not isinstance(owner, nn.Module) or '_modules' not in vars(owner):
        return False
    return any(isinstance(module, _guarded) for module in owner.modules())


def _names_guarded(cfg) -> bool:
    """Whether a config, or a part of one, names a guarded model."""
    cfg = getattr(cfg, '_cfg_dict', cfg)
    if isinstance(cfg, list | tuple):
        return any(map(_names_guarded, cfg))
    if not isinstance(cfg, dict):
        return False
    named = cfg.get('type')
    # Behind a scope: kat_mm.KAT.
    known = {name for one in _guarded for name in (one, one.__name__)}
    if (named.rpartition('.')[2] if isinstance(named, str) else named) in known:
        return True
    return any(map(_names_guarded, cfg.values()))


# What they read by


@functools.cache
def guard_readers() -> None:
    """From now on ask for whom a library reads a file; see above."""
    global _torch_load
    _torch_load = torch.load  # be it replaced by somebody else meanwhile
    torch.load = _load_for_caller
    if is_installed('mmengine'):
        from mmengine.fileio.handlers import PickleHandler, YamlHandler

        PickleHandler.load_from_fileobj = _reading_data(PickleHandler.load_from_fileobj, unpickle)
        YamlHandler.load_from_fileobj = _reading_data(YamlHandler.load_from_fileobj, read_yaml)
        # These read by themselves.
        after_import('mmseg.utils.io', _guard_medical_images)
        after_import('mmdet.datasets.openimages', _guard_openimages)


@functools.wraps(_torch_load)
def _load_for_caller(f, *args, **kwargs):
    if not _is_guarded():
        return _torch_load(f, *args, **kwargs)
    # Positional are map_location and pickle_module.
    options = dict(zip(('map_location', 'pickle_module'), args, strict=False), **kwargs)
    options.pop('pickle_module', None)
    options.pop('weights_only', None)
    with named_errors(_name(f)):
        return load(f, **options)


def _name(file) -> str | Path:
    return file if isinstance(file, str | Path) else getattr(file, 'name', 'in memory')


def _reading_data(read, read_data):
    @functools.wraps(read)
    def read_for_caller(handler, file, **kwargs):
        if not _is_guarded():
            return read(handler, file, **kwargs)
        # mmengine hands on the bytes, and knows the name.
        with _named_data_errors(sys._getframe(1).f_locals.get('file', 'in memory')):
            return read_data(file, **kwargs)

    return read_for_caller


@contextlib.contextmanager
def _named_data_errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except NotData as error:
        raise UserError(
            f'{path} holds more than arrays and boxes, and reading that would run code: '
            f'{error}. If you trust its source, start the tool with --allow-pickle'
        ) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'{path} cannot be read; it is truncated or of another format '
            f'({type(error).__name__}: {error})'
        ) from error


def _guard_medical_images(module: ModuleType) -> None:
    """Those of mmseg's LoadBiomedicalData that are pickles."""

    def loads(content: bytes):
        if not _is_guarded():
            return pickle.loads(content)
        # Bytes have no name; the sample that is loaded has.
        names = (names.get('results') for _, names in _callers())
        results = next((given for given in names if isinstance(given, dict)), {})
        with _named_data_errors(results.get('img_path', 'in memory')):
            return unpickle(io.BytesIO(content))

    module.pickle = SimpleNamespace(loads=loads)


def _guard_openimages(module: ModuleType) -> None:
    """The hierarchy of classes, an array that may hold any objects."""
    challenge = module.OpenImagesChallengeDataset
    read = challenge._get_relation_matrix

    @functools.wraps(read)
    def read_for_caller(dataset, hierarchy_file: str):
        if not _is_guarded():
            return read(dataset, hierarchy_file)
        with _named_data_errors(hierarchy_file):
            return read_array(hierarchy_file)[1:, 1:]

    challenge._get_relation_matrix = read_for_caller


@contextlib.contextmanager
def _known_globals() -> Iterator[None]:
    """What torch may read besides tensors: ours, and what the user added to it."""
    before, ours = torch.serialization.get_safe_globals(), checkpoint_globals()
    # mmengine adds NumPy's own while it reads. Of two with one name torch takes either, by chance.
    # With mmengine's own getattr a file gets at any module, and can put functions into it.
    named = {'builtins.getattr', *map(_name_of_global, ours)}
    kept = [item for item in before if _name_of_global(item) not in named]
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals([*kept, *ours])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _name_of_global(item) -> str:
    """By which torch finds it: a function or class, or one and its name in files."""
    return item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}'
