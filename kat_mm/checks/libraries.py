"""Whether what a config needs is installed, and imports."""

import contextlib
import importlib
import importlib.metadata
import io

from mmengine.config import Config

from kat_mm.errors import UserError

_EXTRAS = dict(mmdet='detection', mmpretrain='classification', mmseg='segmentation')


def check_library(cfg: Config) -> None:
    """Import the library of the config's task, and say what to do where that fails.

    Raises:
        UserError: It is not installed, or does not import.
    """
    library = cfg.get('default_scope')
    if library not in _EXTRAS:
        return
    try:
        # They print what of their own parts is not there.
        with contextlib.redirect_stdout(io.StringIO()):
            for part in ('datasets', 'models'):
                importlib.import_module(f'{library}.{part}')
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        if missing:
            reason, remedy = 'is not installed', f'pip install "kat_mm[{_EXTRAS[library]}]"'
        else:
            reason = f'does not import ({type(error).__name__}: {error})'
            remedy = 'compare the installed versions with requirements/pins.txt'
            # mmpretrain 1.3.6 was written for transformers 4.
            transformers = _version('transformers')
            if library == 'mmpretrain' and int(transformers.partition('.')[0]) >= 5:
                reason = f'does not import with transformers {transformers}'
                remedy = 'pip install "transformers<5", or: pip uninstall transformers'
        raise UserError(f'the config needs {library}, which {reason}; {remedy}') from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return '0'


def needs_mmdet(cfg: Config) -> bool:
    """Whether a config detects, or takes parts from mmdet, as ``kat_mm.NAME`` does too."""
    return cfg.get('default_scope') == 'mmdet' or _names_mmdet(cfg.to_dict())


def _names_mmdet(node) -> bool:
    if isinstance(node, list | tuple):
        return any(map(_names_mmdet, node))
    if not isinstance(node, dict):
        return False
    kind = node.get('type')
    of_mmdet = isinstance(kind, str) and kind.startswith(('mmdet.', 'kat_mm.'))
    return of_mmdet or any(map(_names_mmdet, node.values()))


def check_compiled_operators() -> None:
    """Refuse an mmcv that was installed without its operators, which detectors need."""
    try:
        importlib.import_module('mmcv.ops')
    except ImportError as error:
        raise UserError(
            f"mmcv has no compiled operators, which detectors and mmdet's heads need ({error}). In "
            'a clone: make operators. Elsewhere, with torch already installed: pip install '
            '--force-reinstall --no-deps --no-build-isolation --no-cache-dir onedl-mmcv==2.3.6. '
            'Either compiles them, once, for about 20 minutes divided by the number of cores'
        ) from error
