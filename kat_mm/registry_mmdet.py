"""Names that need mmdet, for configs as ``kat_mm.NAME``: imported when one asks for the first."""

from kat_mm import heads, registry

for _name in heads.__all__:
    registry.MODELS_ON_MMDET.register_module(module=getattr(heads, _name))
