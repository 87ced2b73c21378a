"""KArAt, learnable attention: bases of functions, operators made of them, and the attention."""

from .attention import KArAt
from .bspline import BSpline
from .fourier import Fourier
from .l1_ball import project_l1_ball
from .operators import FullOperator, Phi1W2, W1Phi2
from .rational import Rational
from .wavelet import Wavelet

__all__ = [
    'BSpline',
    'Fourier',
    'FullOperator',
    'KArAt',
    'Phi1W2',
    'Rational',
    'W1Phi2',
    'Wavelet',
    'project_l1_ball',
]
