"""Arrays in pickles: read as NumPy wrote them, and refused where their type or state is made up."""

import argparse
import io
import pickle
import zipfile

import mmengine
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from kat_mm.checkpoints import read_checkpoint, trust_files
from kat_mm.checkpoints.data_files import unpickle
from kat_mm.checkpoints.state_dict import find_state_dict
from kat_mm.errors import UserError

SOUND = [
    np.arange(6, dtype='<f8').reshape(2, 3),
    np.arange(6, dtype='>i4').reshape(3, 2),
    np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    np.float16([[1.5]]),
    np.array([True, False]),
    np.array(2.5),
    np.float32(0.5),
    np.zeros((0, 4)),
]
MORE = [np.array(['ab', 'c']), np.array(['a', 1, None], object), np.array([1 + 2j])]


def assert_same(found, given):
    np.testing.assert_array_equal(found, given)
    # NumPy may turn bytes into the machine's order.
    assert found.dtype.newbyteorder('=') == given.dtype.newbyteorder('=')
    assert found.shape == given.shape
    assert isinstance(found, np.ndarray | np.generic)


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('given', [*SOUND, *MORE], ids=lambda given: str(given.dtype))
def test_arrays_in_data_are_read_as_they_are(given, protocol):
    assert_same(unpickle(io.BytesIO(pickle.dumps(given, protocol))), given)


@pytest.mark.parametrize('given', SOUND, ids=lambda given: str(given.dtype))
def test_arrays_in_checkpoints_are_read_as_they_are(given, tmp_path):
    torch.save(dict(x=given, y=[given]), tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')
    assert_same(found['x'], given)
    assert_same(found['y'][0], given)


def test_arrays_that_were_read_are_written_as_those_of_numpy(tmp_path):
    """A resumed run writes the logs that it has read, for everybody to read."""
    given = np.arange(3.0)
    torch.save(dict(x=given), tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')['x']
    assert pickle.dumps(found) == pickle.dumps(given)
    assert find_state_dict(dict(x=found))['x'].tolist() == [0, 1, 2]


# What no writer writes


def text(words: str) -> bytes:
    return b'X' + len(words).to_bytes(4, 'little') + words.encode()


def call(function: str, *args: bytes) -> bytes:
    module, _, name = function.rpartition('.')
    return f'c{module}\n{name}\n('.encode() + b''.join(args) + b'tR'


def dtype(name: str, *state: bytes) -> bytes:
    made = call('numpy.dtype', text(name), b'K\x00', b'K\x01')
    return made + b'(' + b''.join(state) + b'tb' * bool(state) if state else made


BYTES = call('_codecs.encode', text('A' * 8), text('latin1'))
OBJECT = dtype('O')
FIELD_OF = b'(' + text('a') + b't}' + text('a') + b'(%sK%ctsK\x08K\x01K\x00'
# Eight bytes that are said to be an object, or to have one, or a number far behind them.
TYPES = dict(
    object_without_flag=dtype('O', b'K\x03', text('|'), b'NNN', b'K\x08K\x08K\x00'),
    object_in_bytes=dtype('V8', b'K\x03', text('|'), b'N', FIELD_OF % (OBJECT, 0)),
    object_in_number=dtype('f8', b'K\x03', text('<'), b'N', FIELD_OF % (OBJECT, 0)),
    number_outside=dtype('V8', b'K\x03', text('|'), b'N', FIELD_OF % (dtype('f8'), 200)),
    larger=dtype('S8', b'K\x03', text('|'), b'NNN', b'J\x00\x00\x00\x7fK\x01K\x00'),
)
EMPTY = call('numpy._core.multiarray._reconstruct', b'cnumpy\nndarray\n', b'K\x00\x85', text('b'))
WAYS = dict(
    constructor=lambda kind: call('numpy.ndarray', b'K\x01\x85', kind, BYTES),
    state=lambda kind: EMPTY + b'(K\x01K\x01\x85' + kind + b'K\x00' + BYTES + b'tb',
    scalar=lambda kind: call('numpy._core.multiarray.scalar', kind, BYTES),
)


@pytest.mark.parametrize('kind', TYPES)
@pytest.mark.parametrize('way', WAYS)
def test_types_that_read_foreign_memory_are_refused(way, kind, tmp_path):
    code = b'\x80\x02}' + text('x') + WAYS[way](TYPES[kind]) + b's.'
    (tmp_path / 'a.pkl').write_bytes(code)
    trust_files(False)
    with pytest.raises(UserError, match='a.pkl (holds more than arrays|cannot be read)'):
        mmengine.load(tmp_path / 'a.pkl')
    torch.save({}, tmp_path / 'empty.pth')
    with (
        zipfile.ZipFile(tmp_path / 'empty.pth') as empty,
        zipfile.ZipFile(tmp_path / 'a.pth', 'w') as evil,
    ):
        for name in empty.namelist():
            evil.writestr(name, code if name.endswith('data.pkl') else empty.read(name))
    with pytest.raises(UserError, match='a.pth (holds more than tensors|cannot be read)'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('owner', [InstanceData, argparse.Namespace])
def test_a_file_does_not_change_classes(owner):
    code = b'\x80\x02' + f'c{owner.__module__}\n{owner.__qualname__}\n'.encode()
    code += b'N}' + text('changed') + b'K\x01s\x86b.'
    with pytest.raises(pickle.UnpicklingError, match='it changes <class'):
        unpickle(io.BytesIO(code))
    assert not hasattr(owner, 'changed')


def test_data_that_are_cut_off_are_named(tmp_path):
    content = pickle.dumps({'a.jpg': np.ones((2, 4))})
    (tmp_path / 'a.pkl').write_bytes(content[:-20])
    trust_files(False)
    with pytest.raises(UserError, match=r'a\.pkl cannot be read; it is truncated or of another'):
        mmengine.load(tmp_path / 'a.pkl')
