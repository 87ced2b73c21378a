"""Whether what a config needs is installed, and imports."""

import contextlib
import importlib
import importlib.metadata
import io

from mmengine.config import Config

from kat_mm.errors import UserError


def check_library(cfg: Config) -> None:
    """Import the library of the config's task, and say what to do where that fails.

    Raises:
        UserError: It is not installed, or does not import.
    """
    library = cfg.get('default_scope')
    if library not in ('mmdet', 'mmpretrain', 'mmseg'):
        return
    try:
        # They print what of their own parts is not there.
        with contextlib.redirect_stdout(io.StringIO()):
            for part in ('datasets', 'models'):
                importlib.import_module(f'{library}.{part}')
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        if missing:
            reason, remedy = 'is not installed', 'pip install -e ".[onedl]"'
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


def check_compiled_operators() -> None:
    """Refuse an mmcv that was installed without its operators, which detectors need."""
    try:
        importlib.import_module('mmcv.ops')
    except ImportError as error:
        raise UserError(
            f'mmcv has no compiled operators, which detectors need ({error}). Build it again, with '
            'torch already installed: pip install --force-reinstall --no-deps '
            '--no-build-isolation --no-cache-dir onedl-mmcv==2.3.6, and try: '
            'python -c "import mmcv.ops" (README.md, "Into an environment that you have")'
        ) from error
