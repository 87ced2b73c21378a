"""From what a user gives (a name, an address, a file) to a file of this machine."""

import difflib
import hashlib
import logging
import os
from pathlib import Path

import torch

from kat_mm.checkpoints import read_checkpoint
from kat_mm.errors import UserError

from .download import download, expected_sha256, sha256
from .published import GATED, PUBLISHED

_logger = logging.getLogger(__name__)


def read_weights(source: str | Path, allow_pickle: bool = False) -> dict:
    """Read a checkpoint that is given by its name, its address, or as a file.

    Args:
        source: See :func:`find_weights`.
        allow_pickle: As of :func:`kat_mm.checkpoints.read_checkpoint`. Default: False.

    Returns:
        The content: a state dict, or a dict that nests one.

    Raises:
        UserError: It cannot be found, got, verified or read.
    """
    return read_checkpoint(find_weights(source, allow_pickle), allow_pickle)


def find_weights(source: str | Path, allow_pickle: bool = False) -> Path:
    """The file of a checkpoint, brought here first where it is elsewhere.

    Args:
        source: A name of :data:`PUBLISHED`, a URL (http or https), or a path.
        allow_pickle: Whether a file from elsewhere is kept although reading it would run code that
            it holds. Default: False.

    Returns:
        A path as it is; else the file below :func:`cache_dir`, verified.

    Raises:
        UserError: There is no such name, or it cannot be got or verified.
    """
    url = _address(str(source))
    if url is None:
        return Path(source)
    path = cache_path(url)
    try:
        if not path.exists():
            download(url, path, allow_pickle)
    except UserError as error:
        end = '' if str(error).endswith(('.', '?')) else '.'
        raise UserError(
            f'{error}{end} Or fetch it elsewhere and put it here as {path}, or give the path of a '
            'file in its place; None as the checkpoint of init_cfg trains from scratch'
        ) from error
    found = sha256(path)
    if not found.startswith(expected_sha256(url)):
        raise UserError(
            f'{path} is not what {url} has: its SHA-256 is {found}. Delete it, and it is got again'
        )
    _logger.info('%s is %s, SHA-256 %s', source, path, found)
    return path


def _address(source: str) -> str | None:
    if source in PUBLISHED:
        return PUBLISHED[source].url
    scheme, found, rest = source.partition('://')
    if found and scheme.lower() not in ('http', 'https'):
        raise UserError(
            f'checkpoint {source} is an address of {scheme}; it is to be a name, a file, or an '
            'address of http or https'
        )
    if found:
        return f'{scheme.lower()}://{rest}'
    if os.path.exists(source) or os.path.splitext(source)[1] or os.sep in source:
        return None
    for begin, how in GATED.items():
        if source.startswith(begin):
            raise UserError(f'{source} cannot be downloaded. {how}')
    near = difflib.get_close_matches(source, PUBLISHED, n=1)
    hint = f'; did you mean {near[0]}?' if near else '.'
    raise UserError(
        f'checkpoint {source} is no file, and no published model has this name{hint} Names are '
        f'{", ".join(PUBLISHED)}'
    )


def cache_dir() -> Path:
    """Where downloaded weights are kept.

    The folder that the environment variable KAT_MM_WEIGHTS_DIR names; by default ``kat_mm`` below
    PyTorch's, which TORCH_HOME or XDG_CACHE_HOME move.
    """
    given = os.environ.get('KAT_MM_WEIGHTS_DIR')
    return Path(given).expanduser() if given else Path(torch.hub.get_dir(), 'kat_mm')


def cache_path(url: str) -> Path:
    """Where the file of an address is kept: files of one name from two addresses do not collide."""
    name = url.partition('?')[0].rstrip('/').rpartition('/')[2]
    if not name.strip('.'):
        raise UserError(f'checkpoint {url} is an address of a folder; it is to be one of a file')
    return cache_dir() / hashlib.sha256(url.encode()).hexdigest()[:12] / name
