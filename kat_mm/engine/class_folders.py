"""The former place of :func:`kat_mm.checks.classification.find_class_folders`."""

from kat_mm.checks.classification import find_class_folders

__all__ = ['find_class_folders']
