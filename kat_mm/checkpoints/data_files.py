"""Data in formats that can hold code: pickles, YAML and arrays of objects, read without it.

Whatever else they hold raises :class:`NotData`, which says what it is.
"""

import argparse
import functools
import pickle
import re
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

from kat_mm.installed import is_installed


class NotData(pickle.UnpicklingError):
    """A file wants more than data."""


def unpickle(file, **kwargs):
    """``pickle.load`` of arrays, and of mmengine's structures of them."""
    return _DataUnpickler(file, **kwargs).load()


def read_array(path: str | Path):
    """``numpy.load`` of one array (.npy), whose objects may be what :func:`unpickle` reads."""
    import numpy as np

    with open(path, 'rb') as file:
        if np.lib.format.read_magic(file) == (1, 0):  # the versions since are for other dtypes
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject:
                return unpickle(file).reshape(shape)
    return np.load(path)


def read_yaml(file, **_):
    """YAML as data: mmengine's loader makes any object, by calling anything."""
    import yaml

    class Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
        def construct_tuple(self, node):
            return tuple(self.construct_sequence(node, deep=True))

    # Configs that mmengine wrote have tuples.
    Loader.add_constructor('tag:yaml.org,2002:python/tuple', Loader.construct_tuple)
    try:
        return yaml.load(file, Loader)
    except yaml.constructor.ConstructorError as error:
        wanted = re.search(r"python/([^']*)", str(error))
        if wanted is None:
            raise
        raise NotData(f'it wants {wanted[1]}') from error


class _DataUnpickler(pickle._Unpickler):
    """Reads arrays, and mmengine's structures of them.

    The one in Python: that in C gives a state to whatever stands before it, which changes classes.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def load_build(self):
        owner = self.stack[-2]
        if isinstance(owner, type) or callable(owner):
            raise NotData(f'it changes {owner}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str):
        name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        if name not in _data_globals():
            raise NotData(f'it wants {name}')
        return _data_globals()[name]


@functools.cache
def _data_globals() -> dict:
    from _codecs import encode  # as which protocol 2 writes bytes

    from mmengine.structures import BaseDataElement, InstanceData

    renamed = [item for item in checkpoint_globals() if isinstance(item, tuple)]
    known = {name: item for item, name in renamed}
    structures = BaseDataElement, InstanceData
    for item in (*checkpoint_globals(), *structures, OrderedDict, set, frozenset, encode):
        if not isinstance(item, tuple):
            known[f'{item.__module__}.{item.__qualname__}'] = item
            # Where its package shows it.
            known[f'{item.__module__.rpartition(".")[0]}.{item.__qualname__}'] = item
    return known


@functools.cache
def checkpoint_globals() -> list:
    """What a checkpoint holds besides tensors: arguments of a script, and the logs of mmengine."""

    def no_bytes() -> bytes:
        """As protocol 2 writes those of an empty array; of a number it would take as many."""
        return b''

    names: list = [argparse.Namespace, (no_bytes, 'bytes'), (no_bytes, 'builtins.bytes')]
    if is_installed('numpy'):
        from .plain_arrays import known

        names += known()
    if is_installed('mmengine'):
        from mmengine.logging import HistoryBuffer

        def history_buffer_method(owner: type, name: str):
            """The only ``getattr`` that reading may do: log buffers name their methods."""
            if owner is not HistoryBuffer or name.startswith('_'):
                raise NotData(f'it asks for {name} of {owner}')
            return getattr(owner, name)

        names += [
            HistoryBuffer,
            (history_buffer_method, 'getattr'),
            (history_buffer_method, 'builtins.getattr'),
        ]
    return names
