"""Configs by file or by name."""

import difflib
from pathlib import Path

from mmengine.config import Config

from kat_mm.errors import UserError

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
