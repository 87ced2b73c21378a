"""KArAt, learnable attention: bases of functions, operators made of them, and the attention."""

from .attention import KArAt
from .bspline import BSpline
from .fourier import Fourier
from .rational import Rational
from .score_operator import ScoreOperator
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
