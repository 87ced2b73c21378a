"""Arrays of NumPy in pickles, made in the one way in which NumPy writes them, of plain types alone.

NumPy takes any state for a type that comes in a pickle, and reads memory by it: with numbers that
are said to be objects, or fields beyond the array's end, a file reads and runs what is not its own.
Here a type counts by its kind, size and byte order, and is made anew from those.
"""

import numpy as np

from .data_files import NotData


class Array(np.ndarray):
    """An array out of a pickle. It is an ``ndarray``, and is pickled as one."""

    def __new__(cls, *_):
        raise NotData('it makes an array in another way than NumPy does')

    def __setstate__(self, state):
        *_, shape, dtype, is_fortran, data = state
        super().__setstate__((1, shape, plain(dtype), is_fortran, data))

    def __reduce_ex__(self, protocol):
        return self.view(np.ndarray).__reduce_ex__(protocol)


def plain(dtype) -> np.dtype:
    """The type of this kind, size and byte order, or an error where that is not all of it."""
    if not isinstance(dtype, np.dtype | str):
        raise NotData(f'it has an array of type {dtype!r}')
    found = np.dtype(dtype if isinstance(dtype, str) else dtype.str)
    if found.kind == 'V' or getattr(dtype, 'fields', None) is not None:
        raise NotData(f'it has an array of fields or raw bytes, {found.str}')
    return found


def reconstruct(*_) -> Array:
    """An empty array, which gets its state."""
    return np.ndarray.__new__(Array, (0,), 'b')


def scalar(dtype, data):
    """A number."""
    found = plain(dtype)
    if found.hasobject:
        raise NotData('it has a number that is an object')
    return np.frombuffer(data, found)[0]


def frombuffer(buffer, dtype, shape, order, *_) -> np.ndarray:
    """An array as protocol 5 writes it."""
    return np.frombuffer(buffer, plain(dtype)).reshape(shape, order=order)


def known() -> list:
    """What a pickle calls for arrays, by the names that versions of NumPy give it."""
    numbers = 'Bool', *(f'Int{bits}' for bits in (8, 16, 32, 64)), 'UInt8'
    return [
        np.dtype,
        *(getattr(np.dtypes, f'{name}DType') for name in numbers),
        *(getattr(np.dtypes, f'Float{bits}DType') for bits in (16, 32, 64)),
        (Array, 'numpy.ndarray'),
        *(
            (function, f'numpy.{core}.{name}')
            for core in ('core', '_core')
            for function, name in (
                (reconstruct, 'multiarray._reconstruct'),
                (scalar, 'multiarray.scalar'),
                (frombuffer, 'numeric._frombuffer'),
            )
        ),
    ]
