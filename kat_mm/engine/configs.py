"""Configs by file or by name."""

import difflib
import functools
from pathlib import Path

import mmengine.hub.hub
from mmengine.config import Config

from kat_mm.errors import UserError

PREFIX = 'kat_mm::'
_PACKAGE = Path(__file__).resolve().parents[1]


def config_root() -> Path | None:
    """The folder that holds ``configs``, of the installed package or of its source tree."""
    for root in (_PACKAGE / '.mim', _PACKAGE.parent):
        if (root / 'configs').is_dir():
            return root
    return None


def find_config(name: str | Path) -> Path:
    """The file of a config that is given as a file, or by the name of one of this project's.

    Args:
        name: A path, or a name such as 'kat_s_upernet_ade20k'.

    Raises:
        UserError: There is no such file or name.
    """
    path, root = Path(name), config_root()
    if path.is_file():
        return path
    if root is not None and len(path.parts) == 1:
        known = root / 'configs' / path.with_suffix('.py')
        if known.is_file():
            return known
        names = [file.stem for file in (root / 'configs').glob('*.py')]
        near = difflib.get_close_matches(path.stem, names, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
    else:
        hint = ''
    raise UserError(f'config {name} does not exist{hint}')


def read_config(name: str | Path, options: dict | None = None) -> Config:
    """Read a config, and merge options into it.

    Args:
        name: As of :func:`find_config`.
        options: Keys with points, such as 'model.backbone.with_cp', and their values.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    path = find_config(name)
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise UserError(f'config {name} cannot be read: {error}') from error
    return cfg


def extend_mmengine_configs() -> None:
    """Have ``_base_ = 'kat_mm::NAME.py'`` and mmengine's ``get_config('kat_mm::NAME.py')`` work.

    mmengine has the names of its own packages alone in that place, asks for a folder in a config's
    name, and would look for all types of such a ``_base_`` in a scope of its name.
    """
    Config._get_cfg_path = staticmethod(_finding(Config._get_cfg_path))
    hub = mmengine.hub.hub
    hub._get_package_and_cfg_path = _splitting(hub._get_package_and_cfg_path)


def _finding(get_cfg_path):
    @functools.wraps(get_cfg_path)
    def find(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return str(_find_own(cfg_path)), None
        return get_cfg_path(cfg_path, filename)

    return find


def _splitting(get_package_and_cfg_path):
    @functools.wraps(get_package_and_cfg_path)
    def split(cfg_path: str) -> tuple[str, str]:
        if cfg_path.startswith(PREFIX):
            path, root = _find_own(cfg_path), config_root()
            assert root is not None  # or there was no file
            return 'kat_mm', str(path.relative_to(root / 'configs'))
        return get_package_and_cfg_path(cfg_path)

    return split


def _find_own(name: str) -> Path:
    """The file of ``kat_mm::NAME``, also of one in ``_base_/``."""
    root, name = config_root(), name.removeprefix(PREFIX)
    path = root and root / 'configs' / Path(name).with_suffix('.py')
    return path if path and path.is_file() else find_config(Path(name).stem)
