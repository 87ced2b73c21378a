"""Coefficients with which group-rational functions start, by the name of a function.

The fitter that made them, and makes others, is ``kat_mm.fits.fitter`` (numpy and scipy).
"""

from .table import RationalFit, available_fits, get_fit

__all__ = ['RationalFit', 'available_fits', 'get_fit']
