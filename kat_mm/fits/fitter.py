"""The fitter that made the packaged table, and the exact functions that it knows (numpy, scipy)."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from numbers import Integral

import numpy as np

from kat_mm.arguments import MOST_DEGREE

from .table import RationalFit, unknown_name


def evaluate_fit(fit: RationalFit, x) -> np.ndarray:
    """Evaluate a fit in float64 at ``x``, a number or an array of any shape."""
    x = np.asarray(x, dtype=np.float64)
    return np.polyval(fit.numerator[::-1], x) / np.polyval((*fit.denominator[::-1], 1.0), np.abs(x))


def _gelu(x):
    from scipy.special import ndtr

    return x * ndtr(x)


def _sigmoid(x):
    from scipy.special import expit

    return expit(x)


# The exact functions, in float64.
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'identity': lambda x: x,
    'relu': lambda x: np.maximum(x, 0.0),
    'leaky_relu': lambda x: np.where(x > 0, x, 0.01 * x),
    'gelu': _gelu,
    'gelu_tanh': lambda x: x * _sigmoid(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    'quick_gelu': lambda x: x * _sigmoid(1.702 * x),
    'silu': lambda x: x * _sigmoid(x),
    'swish': lambda x: x * _sigmoid(x),
    'tanh': np.tanh,
    'sigmoid': _sigmoid,
    'mish': lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    'softplus': lambda x: np.logaddexp(0.0, x),
}

# The docstring of ``table.py`` gives the reasons.
TABLE_INTERVALS = {**dict.fromkeys(FUNCTIONS, (-8.0, 8.0)), 'swish': (-3.0, 3.0)}


def fit_rational(
    function: str | Callable[[np.ndarray], np.ndarray],
    order: tuple[int, int] = (5, 4),
    interval: tuple[float, float] = (-3.0, 3.0),
) -> RationalFit:
    """Fit a rational function with the smallest possible largest error (minimax), on scipy.

    For a given error t, ``|P - f Q| <= t Q`` is linear in the coefficients, since ``Q >= 1``: a
    linear program decides whether any fit is that good, and bisection on t finds the best one. The
    optimum is global, so there are no starting points to try and nothing random.

    Args:
        function: A name in :data:`FUNCTIONS`, or a function that maps a float64 array ``(N,)`` to
            real values ``(N,)``.
        order: Degrees ``(m, n)`` of P and Q.
        interval: ``(lo, hi)``, where to fit.

    Returns:
        The fit. It is named as the function is.

    Raises:
        ValueError: If the function's name is unknown, the order or the interval is not valid, or
            the function is not finite in the interval.
        TypeError: If ``function`` is neither a name nor callable.
    """
    name, function = _check_function(function)
    order = _check_order(order)
    interval = _check_interval(interval)

    # Both axes are scaled to [-1, 1], where powers of x are well conditioned.
    x = _grid(interval, 300)
    y = _call(function, x)
    x_scale = np.abs(x).max()
    y_scale = np.abs(y).max() or 1.0
    a, b = _minimax(x / x_scale, y / y_scale, order)
    with np.errstate(all='ignore'):
        numerator = _round(a, y_scale / x_scale ** np.arange(len(a)))
        denominator = _round(b, 1.0 / x_scale ** np.arange(1, len(b) + 1))
        x = _grid(interval, 20_000)
        fit = RationalFit(name, numerator, denominator, interval, max_error=np.nan)
        max_error = float(np.abs(evaluate_fit(fit, x) - _call(function, x)).max())
    if not np.isfinite(max_error):
        raise ValueError(
            f'interval={interval} is too narrow or too wide for order={order}: the coefficients '
            'leave the range of float64'
        )
    return replace(fit, max_error=max_error)


def _minimax(x: np.ndarray, y: np.ndarray, order: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (a, b) with the smallest largest error at the points x; x and y in [-1, 1]."""
    from scipy.optimize import linprog

    m, n = order
    powers = x[:, None] ** np.arange(m + 1)
    abs_powers = np.abs(x)[:, None] ** np.arange(1, n + 1)
    # No term of Q grows beyond this: without a bound, a fit whose limit Q -> inf is best would
    # have no end. Good fits stay far below it.
    max_term = 1e4

    # The best polynomial is the start, so that b stays 0 where no denominator is needed.
    a, b = np.linalg.lstsq(powers, y, rcond=None)[0], np.zeros(n)
    q = np.ones_like(x)
    residual = powers @ a - y
    # The error of the best fit known, and one that no fit reaches.
    high, low = np.abs(residual).max(), 0.0
    while high > max(1.0001 * low, 1e-15):
        target = max(np.sqrt(low * high), high / 10)
        # Variables: the changes of a and b, and u. Minimise u such that the new coefficients have
        # |P - y Q| <= target * Q + u * q at each point. They meet the target where u <= 0. All is
        # divided by `high`, so that the solver's tolerance is relative to the error.
        lhs = np.block(
            [
                [powers, -(y + target)[:, None] * abs_powers, -q[:, None]],
                [-powers, (y - target)[:, None] * abs_powers, -q[:, None]],
            ]
        )
        rhs = np.concatenate([target * q - residual, target * q + residual]) / high
        bounds = [
            *[(None, None)] * (m + 1),
            *[(-c / high, (max_term - c) / high) for c in b],
            (None, None),
        ]
        solution = linprog([0.0] * (m + n + 1) + [1.0], lhs, rhs, bounds=bounds, method='highs').x
        if solution is None:  # lost in rounding
            low = target
            continue
        new_a = a + high * solution[: m + 1]
        new_b = np.maximum(b + high * solution[m + 1 : -1], 0.0)
        new_q = 1.0 + abs_powers @ new_b
        new_residual = powers @ new_a - y * new_q
        error = np.abs(new_residual / new_q).max()
        if error > target:
            low = target
        if error < high:
            a, b, q, residual, high = new_a, new_b, new_q, new_residual, error
    return a, b


def _grid(interval: tuple[float, float], num: int) -> np.ndarray:
    """Chebyshev points of the interval, on each side of 0, where |x| has its kink."""
    lo, hi = interval
    edges = [lo, 0.0, hi] if lo < 0.0 < hi else [lo, hi]
    nodes = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, num))
    return np.unique([left + (right - left) * nodes for left, right in pairwise(edges)])


def _round(coefficients: np.ndarray, scale: np.ndarray) -> tuple[float, ...]:
    """Scaled coefficients to 12 digits: more than float32 keeps, and exact fits come out exact."""
    coefficients = np.where(np.abs(coefficients) > 1e-12, coefficients, 0.0)
    return tuple(float(f'{c:.12g}') for c in coefficients * scale)


def _call(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Call a user's function and refuse what is not one finite real number per x."""
    with np.errstate(all='ignore'):
        y = np.asarray(function(x))
    if y.shape != x.shape or y.dtype.kind not in 'biuf':
        raise ValueError(
            f'function must return one real number per x: for x of shape {x.shape} it returned '
            f'{y.dtype} of shape {y.shape}'
        )
    finite = np.isfinite(y)
    if not finite.all():
        raise ValueError(
            f'function must be finite in the interval: at x={x[~finite][0]:g} it is {y[~finite][0]}'
        )
    return y.astype(np.float64)


def _check_function(function) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise ValueError(unknown_name('function', function, FUNCTIONS))
        return function, FUNCTIONS[function]
    if not callable(function):
        raise TypeError(f'function must be a name or callable, got {function!r}')
    return getattr(function, '__name__', type(function).__name__), function


def _check_order(order) -> tuple[int, int]:
    try:
        m, n = order
        valid = all(isinstance(d, Integral) and 0 <= d <= MOST_DEGREE for d in (m, n))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            'order must be two degrees (m, n), whole numbers from 0 to '
            f'{MOST_DEGREE}, such as (5, 4), got {order!r}'
        )
    return int(m), int(n)


def _check_interval(interval) -> tuple[float, float]:
    try:
        lo, hi = (float(edge) for edge in interval)
        valid = np.isfinite([lo, hi]).all() and lo < hi
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f'interval must be two finite numbers (lo, hi) with lo < hi, such as (-3, 3), '
            f'got {interval!r}'
        )
    return lo, hi
