"""The packaged fits and the fitter, against the exact functions in float64."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog

from kat_mm.fits import RationalFit, available_fits, get_fit
from kat_mm.fits.fitter import FUNCTIONS, TABLE_INTERVALS, evaluate_fit, fit_rational


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return 0.5 * (1.0 + math.tanh(0.5 * x))


# Written without the module under test, on the standard library.
EXACT = {
    'identity': lambda x: x,
    'relu': lambda x: max(x, 0.0),
    'leaky_relu': lambda x: max(x, 0.01 * x),
    'gelu': lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2.0)),
    'gelu_tanh': lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    'quick_gelu': lambda x: x * sigmoid(1.702 * x),
    'silu': lambda x: x * sigmoid(x),
    'swish': lambda x: x * sigmoid(x),
    'tanh': math.tanh,
    'sigmoid': sigmoid,
    'mish': lambda x: x * math.tanh(softplus(x)),
    'softplus': softplus,
}

# On [-3, 3], as its authors published it.
PUBLISHED_SWISH = RationalFit(
    name='swish',
    numerator=(
        3.054879741161051e-07,
        0.5000007853744493,
        0.24999783422824703,
        0.05326628273219478,
        0.005803034571292244,
        0.0002751961022402342,
    ),
    denominator=(
        4.111554955950634e-06,
        0.10652899335007572,
        1.2690007399796238e-06,
        0.0005502331264140556,
    ),
    interval=(-3.0, 3.0),
    max_error=1.2e-6,
)

names = pytest.mark.parametrize('name', EXACT)


def largest_error(fit, name, interval):
    x = np.linspace(*interval, 100_001)
    return np.abs(evaluate_fit(fit, x) - np.vectorize(EXACT[name], otypes=[float])(x)).max()


def test_every_function_has_a_fit_of_order_5_4():
    assert available_fits() == tuple(FUNCTIONS) == tuple(EXACT)
    assert all(get_fit(name).order == (5, 4) for name in EXACT)
    assert all(get_fit(name).interval == TABLE_INTERVALS[name] for name in EXACT)


def test_the_page_of_the_backbone_names_every_function():
    page = (Path(__file__).parents[2] / 'docs' / 'backbone.md').read_text()
    (names,) = re.findall('`act_init` names any of (.*?)\\.', page, re.DOTALL)
    names = re.sub(r'\(.*?\)', '', names, flags=re.DOTALL)
    assert tuple(re.findall(r'\w+', names)) == available_fits()


@names
def test_exact_functions_agree_with_the_standard_library(name):
    x = np.linspace(-10, 10, 2001)
    expected = [EXACT[name](v) for v in x]
    np.testing.assert_allclose(FUNCTIONS[name](x), expected, rtol=1e-12, atol=1e-15)
    with np.errstate(all='raise', under='ignore'):
        assert np.isfinite(FUNCTIONS[name](np.array([-1e3, 1e3]))).all()


@names
def test_stored_largest_error_is_true(name):
    fit = get_fit(name)
    assert fit.max_error == pytest.approx(largest_error(fit, name, fit.interval), rel=0.01)


@names
def test_denominator_is_stored_as_it_is_evaluated(name):
    fit = get_fit(name)
    assert min(fit.denominator) >= 0
    x = np.linspace(-50, 50, 1001)
    q = 1 + sum(abs(b) * np.abs(x) ** j for j, b in enumerate(fit.denominator, 1))
    p = sum(a * x**i for i, a in enumerate(fit.numerator))
    assert q.min() >= 1
    np.testing.assert_allclose(evaluate_fit(fit, x), p / q, rtol=1e-12, atol=1e-12)


@names
def test_tails_grow_no_faster_than_a_line(name):
    fit = get_fit(name)
    assert (np.abs(evaluate_fit(fit, [-1e4, 1e4])) <= 1.01e4).all()


@names
def test_float32_costs_only_rounding(name):
    fit = get_fit(name)
    x = np.linspace(*fit.interval, 20_001, dtype=np.float32)
    p = np.polyval(np.float32(fit.numerator[::-1]), x)
    q = np.polyval(np.float32((*fit.denominator[::-1], 1.0)), np.abs(x))
    assert (p / q).dtype == np.float32
    exact = np.vectorize(EXACT[name], otypes=[float])(x.astype(np.float64))
    eps = np.finfo(np.float32).eps
    assert np.abs(p / q - exact).max() <= fit.max_error + 8 * eps * max(1, np.abs(exact).max())


def test_identity_is_exact():
    fit = get_fit('identity')
    assert fit.numerator == (0, 1, 0, 0, 0, 0)
    assert fit.denominator == (0, 0, 0, 0)
    assert fit.max_error == 0


def test_fits_are_as_good_as_published():
    assert largest_error(PUBLISHED_SWISH, 'swish', (-3, 3)) == pytest.approx(1.2e-6, rel=0.05)
    assert largest_error(get_fit('swish'), 'swish', (-3, 3)) < 1.2e-6
    assert largest_error(get_fit('gelu'), 'gelu', (-3, 3)) < 0.0037
    assert largest_error(get_fit('gelu'), 'gelu', (-8, 8)) < 0.0040


@names
def test_fitter_reproduces_the_table(name):
    stored = get_fit(name)
    fit = fit_rational(name, interval=stored.interval)
    assert (fit.name, fit.order, fit.interval) == (name, (5, 4), stored.interval)
    assert fit.max_error == pytest.approx(stored.max_error, rel=1e-3, abs=1e-15)


@pytest.mark.parametrize('name', ['relu', 'gelu', 'tanh', 'mish', 'softplus'])
def test_no_fit_is_better(name):
    """|P - f Q| <= t Q has no solution for a t of 1% below the fit's error."""
    fit = get_fit(name)
    t = 0.99 * fit.max_error
    x = np.linspace(*fit.interval, 801)
    f = FUNCTIONS[name](x)
    x = x / fit.interval[1]
    p = x[:, None] ** np.arange(6)
    q = np.abs(x)[:, None] ** np.arange(1, 5)
    slack = -np.ones((x.size, 1))
    lhs = np.block([[p, -(f + t)[:, None] * q, slack], [-p, (f - t)[:, None] * q, slack]])
    bounds = [(None, None)] * 6 + [(0, 1e4)] * 4 + [(None, None)]
    result = linprog([0] * 10 + [1], lhs, np.concatenate([f + t, t - f]), bounds=bounds)
    assert result.status == 0
    assert result.fun > 1e-3 * t


def test_fit_is_deterministic():
    assert fit_rational('mish') == fit_rational('mish')


def test_callable_is_fitted_and_named():
    def bump(x):
        return np.exp(-(x**2))

    fit = fit_rational(bump, order=(6, 6), interval=(-2, 4))
    assert (fit.name, fit.order, fit.interval) == ('bump', (6, 6), (-2.0, 4.0))
    x = np.linspace(-2, 4, 50_001)
    assert fit.max_error == pytest.approx(np.abs(evaluate_fit(fit, x) - bump(x)).max(), rel=0.01)
    assert fit.max_error < 1e-3


def test_rational_function_is_found_again():
    truth = RationalFit('truth', (1.0, -2.0, 0.5, 0.25), (0.5, 0.75), (-3.0, 3.0), 0.0)
    fit = fit_rational(lambda x: evaluate_fit(truth, x), order=(3, 2))
    np.testing.assert_allclose(fit.numerator, truth.numerator, rtol=1e-6)
    np.testing.assert_allclose(fit.denominator, truth.denominator, rtol=1e-6)


@pytest.mark.parametrize('order', [(0, 0), (1, 0), (0, 4), (4, 5), (7, 6), (16, 16)])
def test_orders_may_be_any(order):
    fit = fit_rational('softplus', order=order)
    assert fit.order == order
    assert fit.max_error == pytest.approx(largest_error(fit, 'softplus', (-3, 3)), rel=0.01)


@pytest.mark.parametrize('interval', [(0, 5), (-5, 0), (2, 10), (-1e-3, 1e-3), (-3, 100)])
def test_intervals_may_be_any(interval):
    fit = fit_rational('mish', interval=interval)
    error = largest_error(fit, 'mish', interval)
    assert fit.max_error == pytest.approx(error, rel=0.01, abs=1e-15)


def test_a_polynomial_needs_no_denominator():
    fit = fit_rational(lambda x: 0.25 * x**2 - 3, order=(3, 2))
    assert fit.numerator == (-3, 0, 0.25, 0)
    assert fit.denominator == (0, 0)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="name='gleu' is unknown; did you mean 'gelu'?.*swish"):
        get_fit('gleu')
    with pytest.raises(ValueError, match="function='sigmod'.*did you mean 'sigmoid'?"):
        fit_rational('sigmod')


@pytest.mark.parametrize('order', [(-1, 4), (5,), 5, (5, 4, 3), (5.5, 4), ('5', '4'), (5, 17)])
def test_bad_order_is_refused(order):
    with pytest.raises(ValueError, match=r'order must be .* got '):
        fit_rational('gelu', order=order)


@pytest.mark.parametrize(
    'interval', [(3, -3), (1, 1), (0, math.inf), (math.nan, 1), 3, (1, 2, 3), ('a', 1)]
)
def test_bad_interval_is_refused(interval):
    with pytest.raises(ValueError, match=r'interval must be .* got '):
        fit_rational('gelu', interval=interval)


def test_interval_beyond_float64_is_refused():
    with pytest.raises(ValueError, match='too narrow or too wide'):
        fit_rational('gelu', interval=(-1e-200, 1e-200))


def test_bad_function_is_refused():
    with pytest.raises(ValueError, match='finite in the interval: at x=-3 it is nan'):
        fit_rational(np.log)
    with pytest.raises(ValueError, match='one real number per x'):
        fit_rational(lambda x: x.sum())
    with pytest.raises(ValueError, match='one real number per x.*complex'):
        fit_rational(lambda x: 1j * x)
    with pytest.raises(TypeError, match='function must be a name or callable, got 3'):
        fit_rational(3)
