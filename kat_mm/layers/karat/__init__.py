"""KArAt, learnable attention: bases of functions, operators made of them, and the attention."""

from .attention import KArAt
from .bspline import BSpline
from .fourier import Fourier
from .operator import ScoreOperator
from .rational import Rational
from .simplex import project_simplex
from .wavelet import Wavelet

__all__ = [
    'BSpline',
    'Fourier',
    'KArAt',
    'Rational',
    'ScoreOperator',
    'Wavelet',
    'project_simplex',
]
