"""One file from the web: whole and verified, or not there at all."""

import contextlib
import hashlib
import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kat_mm.checkpoints import read_checkpoint
from kat_mm.errors import UserError
from kat_mm.version import __version__
from kat_mm.whole_files import replace_whole

_logger = logging.getLogger(__name__)

# Seconds that a server may take to answer, or to send the next bytes.
TIMEOUT = 30
# Seconds between two words of progress.
PROGRESS = 5
_CHUNK = 1 << 20
# Digits that begin a file's SHA-256: all 64, or eight, which are no date.
_SHA256 = re.compile(r'[-_]([0-9a-f]{64})\.|-(?!\d{8}\.)([0-9a-f]{8})\.')


def download(url: str, path: Path, allow_pickle: bool = False) -> None:
    """Bring a checkpoint from the web to ``path``, whole and verified, or not at all.

    One process of those that want it downloads; the others wait for it.

    Args:
        url: http or https. Where its file name has digits of its SHA-256, as those of KAT, DeiT
            and OpenMMLab do, these are compared; the length is where the server tells it.
        path: The file to write.
        allow_pickle: Keep it also if reading it runs code that it holds. Default: False.

    Raises:
        UserError: The address cannot be reached or has no such file, the server stops sending,
            what it sends is cut off, another file or no checkpoint, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if not path.exists():  # another process has been quicker
                _download(url, path, allow_pickle)
    except OSError as error:
        raise UserError(
            f'cannot write {path}: {error.strerror or error}. Set KAT_MM_WEIGHTS_DIR to a folder '
            'that can be written and has room'
        ) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def expected_sha256(url: str) -> str:
    """The digits that begin the SHA-256 of an address' file, by its name; '' if it has none."""
    found = _SHA256.search(url.partition('?')[0].rpartition('/')[2])
    return found[1] or found[2] if found else ''


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(f'{path}.lock')
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _logger.info('Waiting for the process that downloads %s', path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(url: str, path: Path, allow_pickle: bool) -> None:
    # Of the same ending, which tells how it is read.
    part = path.with_name(f'part-{path.name}')
    try:
        with open(part, 'wb') as file:
            _logger.info('Downloading %s to %s', url, path)
            for chunk in _receive(url):
                file.write(chunk)
        _check(part, url, allow_pickle)
        replace_whole(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _receive(url: str) -> Iterator[bytes]:
    """What an address has, piece by piece, with words of progress; its errors as UserError."""
    try:
        request = urllib.request.Request(url, headers={'User-Agent': f'kat_mm/{__version__}'})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            total = response.length  # None where the server does not tell
            if total is not None:
                _logger.info('It has %.1f MB', total / 1e6)
            size, start = 0, time.monotonic()
            told = start
            while chunk := response.read1(_CHUNK):
                size += len(chunk)
                yield chunk
                now = time.monotonic()
                if now - told >= PROGRESS:
                    told = now
                    speed = size / (now - start)
                    _logger.info('%.1f MB so far, %.1f MB/s', size / 1e6, speed / 1e6)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f'cannot download {url}: {_reason(error)}') from error
    if total is not None and size != total:
        raise UserError(
            f'cannot download {url}: what the server sent is cut off, {size} of {total} bytes. '
            'Try again'
        )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (404, 410):
            return f'there is no such file (HTTP {error.code})'
        if error.code in (401, 403):
            return f'the server asks for permission (HTTP {error.code}), which you may get from it'
        line = str(error.reason).partition('\n')[0]  # of redirects without end it has several
        return f'the server answers HTTP {error.code}, {line.rstrip(".")}. Try again later'
    reason = getattr(error, 'reason', error)
    if isinstance(reason, TimeoutError):
        return f'the server has sent nothing for {TIMEOUT} s. Try again later'
    if isinstance(reason, ConnectionRefusedError):
        return 'the connection is refused. Is there a network, and does it need https_proxy?'
    if isinstance(reason, http.client.IncompleteRead | ConnectionError):
        return 'what the server sent is cut off. Try again'
    return f'{reason or type(error).__name__}. Is there a network, and does it need https_proxy?'


def _check(path: Path, url: str, allow_pickle: bool) -> None:
    """Refuse what has come unless it is the checkpoint of an address."""
    with open(path, 'rb') as file:
        if re.match(rb'(\xef\xbb\xbf)?\s*<', file.read(64)):
            raise UserError(
                f'cannot download {url}: an HTML page has come in place of the file, from a proxy '
                'or a page that asks for a login'
            )
    expected, found = expected_sha256(url), sha256(path)
    if not found.startswith(expected):
        raise UserError(
            f'cannot download {url}: its SHA-256 must begin with {expected}, and a file with '
            f'{found} has come'
        )
    try:
        read_checkpoint(path, allow_pickle)
    except UserError as error:
        raise UserError(str(error).replace(str(path), url)) from error
