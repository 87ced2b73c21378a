"""Checkpoint files: reading without running code, and writing whole or not at all."""

import pickle
import re
from collections import OrderedDict
from pathlib import Path

import torch

from kat_mm.errors import UserError
from kat_mm.whole_files import write_whole

from .archives import check_archive
from .trust import is_trusted, load, named_errors

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


# What tools/export.py writes.
_EXPORTED = ('.onnx', '.xml', '.pt2')


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
    with named_errors(path, allow_pickle):
        content = _read(path, allow_pickle)
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path} holds a {type(content).__name__}, not a state dict')
    return content


def _read(path: str, allow_pickle: bool) -> dict:
    with open(path, 'rb') as file:
        beginning = file.read(64)
    if path.endswith(_EXPORTED):
        raise UserError(
            f'checkpoint {path} is an exported model, no checkpoint: give the one that it was made '
            'of. Exported files run in tools/test.py and in kat_mm.export.load'
        )
    if _SAFETENSORS.match(beginning):
        from safetensors.torch import load_file

        return load_file(path)
    if not _TORCH_OR_NPZ.match(beginning):
        kinds = (kind for start, kind in _NO_CHECKPOINTS.items() if re.match(start, beginning))
        raise UserError(
            f'checkpoint {path} is {next(kinds, "of an unknown format")}, no checkpoint: it begins '
            f'with {beginning[:30]!r}. Get it again, as a file of torch.save, .safetensors or .npz'
        )
    if path.endswith('.npz'):
        import numpy as np

        check_archive(path)
        try:
            with np.load(path, allow_pickle=allow_pickle or is_trusted()) as arrays:
                return {
                    key: torch.from_numpy(array)
                    for key, array in arrays.items()
                    # Not bytes, as other files in it are, nor objects and strings.
                    if isinstance(array, np.ndarray) and array.dtype.kind not in 'OSU'
                }
        except ValueError as error:
            if 'allow_pickle' in str(error):
                raise pickle.UnpicklingError('it holds Python objects') from error
            raise
    return load(path, allow_pickle, map_location='cpu')


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
    try:
        with write_whole(path) as temporary:
            if path.suffix == '.safetensors':
                from safetensors.torch import save_file

                save_file(copy, temporary)
            else:
                torch.save(copy, temporary)
    except (OSError, RuntimeError) as error:
        raise UserError(f'cannot write {path}: {error}') from error
