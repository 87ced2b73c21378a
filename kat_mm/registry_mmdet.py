"""Names that need mmdet, for configs as ``kat_mm.NAME``: imported when one asks for the first."""

from kat_mm import evaluation, heads, registry
from kat_mm.datasets.panoptic import LoadPanopticAnnotations

for _name in heads.__all__:
    registry.MODELS_ON_MMDET.register_module(module=getattr(heads, _name))
registry.METRICS_ON_MMDET.register_module(module=evaluation.PanopticQuality)
registry.TRANSFORMS_ON_MMDET.register_module(module=LoadPanopticAnnotations)
