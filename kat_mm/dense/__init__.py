"""How our operators reach the heads of mmdet and mmseg, and compile and graphs reach a model."""

from .segmentation import use_segmentation_kernels

__all__ = ['use_segmentation_kernels']
