"""Metrics that need no network and no package beyond mmdet's."""

from .panoptic_quality import PanopticQuality

__all__ = ['PanopticQuality']
