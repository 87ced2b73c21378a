"""Heads that OpenMMLab does not have. They need mmdet, and for label maps mmseg."""

from kat_mm.installed import is_installed

from .eomt import EoMT, EoMTHead

__all__ = ['EoMT', 'EoMTHead']

if is_installed('mmseg'):
    from .eomt_semantic import EoMTSegmentor, EoMTSemanticHead

    __all__ += ['EoMTSegmentor', 'EoMTSemanticHead']
