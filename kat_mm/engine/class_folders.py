"""Where scripts of others import :func:`kat_mm.checks.classification.find_class_folders` from."""

from kat_mm.checks.classification import find_class_folders

__all__ = ['find_class_folders']
