"""KAT for OpenMMLab. Importing this package registers its modules where mmengine is installed."""

from . import backbones, fits, layers, ops
from .installed import is_installed
from .version import __version__

__all__ = ['__version__', 'backbones', 'fits', 'layers', 'ops']

if is_installed('mmengine'):
    from . import registry  # noqa: F401  the one place of all names
