"""The work folder of a run: whose it is, and which checkpoint in it to go on from."""

import contextlib
import fcntl
import os
import re
import socket
import zipfile
from pathlib import Path

from mmengine.logging import print_log

from kat_mm.checkpoints.archives import check_archive, damaged_member
from kat_mm.errors import UserError

_STEP = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
# Held until the process ends.
_locks: list = []


def checkpoint_folder(work_dir: str, out_dir: str | None) -> str:
    """Where a checkpoint hook with this ``out_dir`` writes, which mmengine extends by a folder."""
    if out_dir is None or str(out_dir) == work_dir:
        return work_dir
    return os.path.join(out_dir, os.path.basename(work_dir.rstrip(os.sep)))


def latest_checkpoint(work_dir: str, out_dir: str | None = None) -> str | None:
    """The checkpoint of a work folder to go on from, and a word where it is not the obvious one.

    That is the one which the file ``last_checkpoint`` names, in this folder: it may have been moved
    or copied. If it is not whole, it is the newest of those that are.

    Args:
        work_dir: The work folder.
        out_dir: The checkpoint hook's, if it has one. Default: None.
    """
    folder = Path(checkpoint_folder(work_dir, out_dir))
    steps = {
        path: int(match[1]) for path in _files(folder) if (match := _STEP.fullmatch(path.name))
    }
    candidates = sorted(steps, key=steps.__getitem__, reverse=True)
    with contextlib.suppress(OSError):
        last = folder / os.path.basename(Path(work_dir, 'last_checkpoint').read_text().strip())
        candidates = [last] + [path for path in candidates if path != last]
    for path in candidates:
        problem = _problem(path)
        if problem is None:
            if path != candidates[0]:
                print_log(f'Resuming from {path}, the newest checkpoint that is whole', 'current')
            return str(path)
        print_log(f'Checkpoint {path} {problem}: trying an older one', 'current')
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _problem(path: Path) -> str | None:
    if not path.is_file():
        return 'is not there'
    try:
        check_archive(path)
        return None if damaged_member(path) is None else 'is damaged'
    except (zipfile.BadZipFile, OSError):
        return 'is not whole'
    except UserError:
        return 'unpacks to more than a checkpoint has'


def _open_lock(path: Path) -> int:
    """Without truncation: the file may be another run's. A link would have its target written."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UserError(f'{path} is no file, but what a run locks; remove it')
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UserError(f'cannot lock the work folder by {path}: {error.strerror}') from error


def claim_work_dir(work_dir: str, resume: bool) -> None:
    """Make a work folder this run's, until its process ends.

    Called by one process of a run. A lock of a process that is gone does not hold, also where it
    ran on another node, if the network disk knows locks.

    Args:
        work_dir: The work folder; made if it is not there.
        resume: Whether the run goes on with what is in it.

    Raises:
        UserError: Another run is at work there, or was and is not resumed.
    """
    folder = Path(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _open_lock(folder / '.lock')
    owner = os.read(descriptor, 200).decode(errors='replace').strip()
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        raise UserError(
            f'another run is at work in {work_dir} ({owner}); wait for it, end it, or name another '
            'folder with --work-dir'
        ) from None
    except OSError as error:
        print_log(f'{work_dir} cannot be locked against other runs: {error.strerror}', 'current')
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)
    _locks.append(descriptor)
    found = [path.name for path in _files(folder) if _STEP.fullmatch(path.name)]
    if found and not resume:
        raise UserError(
            f'the work folder {work_dir} holds {found[-1]} of another run; go on with that run '
            'with --resume, or name another folder with --work-dir'
        )
