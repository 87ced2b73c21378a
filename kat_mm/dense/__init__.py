"""How our operators reach the heads of mmdet and mmseg, and compile and graphs reach a model."""

from .compile import COMPILED_PARTS, compile_parts
from .graphs import GRAPHED_PARTS, graph_parts
from .segmentation import use_segmentation_kernels

__all__ = [
    'COMPILED_PARTS',
    'GRAPHED_PARTS',
    'compile_parts',
    'graph_parts',
    'use_segmentation_kernels',
]
