"""Functions of the bases, compared pair by pair with independent formulas in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as ScipyBSpline
from scipy.signal import windows
from scipy.stats import kstest

from kat_mm.layers.karat import BSpline, Fourier, Rational, Wavelet
from kat_mm.layers.karat import kan_layer as module
from kat_mm.layers.karat.kan_layer import BASE_FUNCTIONS, KANLayer
from kat_mm.layers.karat.wavelet import WAVELETS

HEADS, OUTPUTS, INPUTS = 2, 3, 4


def make(basis, **options):
    """A basis with random parameters, and inputs of (2, HEADS, 5, INPUTS), in float64."""
    torch.manual_seed(0)
    basis = basis(HEADS, OUTPUTS, INPUTS, gain=1.0, **options).double()
    for parameter in basis.parameters():
        torch.nn.init.normal_(parameter)
    return basis, 2 * torch.randn(2, HEADS, 5, INPUTS, dtype=torch.float64)


def pair_by_pair(x, function):
    """sum_i phi(head, o, i, x_i), with ``function`` from numpy to numpy."""
    x = x.detach().numpy()
    y = np.zeros((*x.shape[:3], OUTPUTS))
    for h in range(HEADS):
        for o in range(OUTPUTS):
            for i in range(INPUTS):
                y[:, h, :, o] += function(h, o, i, x[:, h, :, i])
    return torch.from_numpy(y)


def fourier(basis, h, o, i, x):
    a, b = basis.coefficients[h, :, o, i].detach().numpy().reshape(2, -1)
    return sum(
        a[k - 1] * np.cos(k * x) + b[k - 1] * np.sin(k * x)
        for k in range(1, basis.num_frequencies + 1)
    )


def bspline(basis, h, o, i, x):
    low, high = basis.range
    step = (high - low) / basis.num_intervals
    knots = low + step * np.arange(-basis.order, basis.num_intervals + basis.order + 1)
    coefficients = basis.coefficients[h, :, o, i].detach().numpy()
    return np.nan_to_num(ScipyBSpline(knots, coefficients, basis.order, extrapolate=False)(x)) * (
        (x >= knots[0]) & (x < knots[-1])
    )


def full_bspline(basis, h, o, i, x):
    """Each function on its own: scipy's BSpline is defined in the base interval only."""
    low, high = basis.range
    step = (high - low) / basis.num_intervals
    y = 0
    for n, c in enumerate(basis.coefficients[h, :, o, i].detach().numpy()):
        knots = low + step * np.arange(n - basis.order, n + 2)
        y = y + c * np.nan_to_num(ScipyBSpline.basis_element(knots, extrapolate=False)(x))
    return y


def meyer(x):
    """As in Wav-KAN, piece by piece."""

    def value(x):
        t = 2 * abs(x) - 1
        nu = t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)
        m = 1 if t <= 0 else 0 if t >= 1 else math.cos(math.pi / 2 * nu)
        return math.sin(math.pi * abs(x)) * m

    return np.vectorize(value)(x)


# Of x and the place i of its input.
PSI = {
    'mexican_hat': lambda x, i: 2 / np.sqrt(3 * np.sqrt(np.pi)) * (x**2 - 1) * np.exp(-(x**2) / 2),
    'morlet': lambda x, i: np.real(np.exp(5j * x)) * np.exp(-(x**2) / 2),
    'dog': lambda x, i: (np.exp(-((x + 1e-6) ** 2) / 2) - np.exp(-((x - 1e-6) ** 2) / 2)) / 2e-6,
    'meyer': lambda x, i: meyer(x),
    'shannon': lambda x, i: np.sin(x) / x * windows.hamming(INPUTS)[i],
}


def rational(basis, h, o, i, x):
    a = basis.numerator[h, :, o, i].detach().numpy()
    b = basis.denominator[h, :, o, i].detach().numpy()
    below = 1 + abs(np.polynomial.polynomial.polyval(x, [0, *b]))
    return np.polynomial.polynomial.polyval(x, a) / below


@pytest.mark.parametrize(
    'kind, options, formula',
    [
        (Fourier, dict(grid=1), fourier),
        (Fourier, dict(grid=4), fourier),
        (BSpline, dict(grid=5, order=3, range=(-2, 3)), full_bspline),
        (BSpline, dict(grid=2, order=1), full_bspline),
        (BSpline, dict(grid=4, order=4, range=(-0.5, 0.5)), full_bspline),
        (Rational, dict(), rational),
        (Rational, dict(order=(2, 3)), rational),
        (Rational, dict(order=(1, 0)), rational),
    ],
)
def test_functions_equal_an_independent_formula(kind, options, formula):
    basis, x = make(kind, **options)
    want = pair_by_pair(x, lambda *pair: formula(basis, *pair))
    torch.testing.assert_close(basis(x), want, rtol=1e-10, atol=1e-10)


def test_splines_inside_their_range_are_scipys():
    basis, x = make(BSpline, grid=6, order=3, range=(-1, 2))
    x = x.clamp(-0.999, 1.999)
    want = pair_by_pair(x, lambda *pair: bspline(basis, *pair))
    torch.testing.assert_close(basis(x), want, rtol=1e-10, atol=1e-10)
    # A partition of unity: with all coefficients 1, the number of inputs.
    torch.nn.init.ones_(basis.coefficients)
    torch.testing.assert_close(basis(x), torch.full_like(basis(x), INPUTS))


@pytest.mark.parametrize('name', WAVELETS)
def test_wavelets_equal_their_definition(name):
    basis, x = make(Wavelet, wavelet=name)
    torch.nn.init.uniform_(basis.scale, 0.5, 2.0)
    weight, translation, scale = (
        p.detach().numpy() for p in (basis.weight, basis.translation, basis.scale)
    )

    def formula(h, o, i, x):
        return weight[h, o, i] * PSI[name]((x - translation[h, o, i]) / scale[h, o, i], i)

    torch.testing.assert_close(basis(x), pair_by_pair(x, formula), rtol=1e-7, atol=1e-9)


def test_meyer_is_exact_and_finite_at_its_seams_and_far_away():
    x = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 1e6], requires_grad=True)
    y = WAVELETS['meyer'](x)
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    assert (y[3:] == 0).all() and torch.autograd.grad(y.sum(), x)[0].isfinite().all()


def test_shannon_is_finite_at_0_and_its_window_is_wav_kans():
    x = torch.zeros(7, requires_grad=True)
    y = WAVELETS['shannon'](x)
    torch.testing.assert_close(y.detach().double().numpy(), windows.hamming(7), rtol=1e-6, atol=0)
    assert not torch.autograd.grad(y.sum(), x)[0].any()


ALL = [
    (Fourier, dict(grid=2)),
    (BSpline, dict(grid=4, order=3)),
    *((Wavelet, dict(wavelet=name)) for name in WAVELETS),
    (Rational, dict()),
]


@pytest.mark.parametrize('kind, options', ALL)
def test_gradients_agree_with_finite_differences(kind, options):
    basis, x = make(kind, **options)
    if kind is Wavelet:
        torch.nn.init.uniform_(basis.scale, 0.5, 2.0)
    leaves = [x[:1, :, :2].clone().requires_grad_(), *basis.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: basis(x), leaves)


@pytest.mark.parametrize(
    'kind, options, count',
    [
        (Fourier, dict(grid=3), 2 * 3),
        (BSpline, dict(grid=5, order=3), 5 + 3),
        (Wavelet, dict(), 3),
        (Rational, dict(order=(5, 4)), 5 + 1 + 4),
    ],
)
def test_each_pair_has_as_many_parameters_as_its_formula(kind, options, count):
    basis, _ = make(kind, **options)
    assert sum(p.numel() for p in basis.parameters()) == HEADS * OUTPUTS * INPUTS * count


@pytest.mark.parametrize('kind, options', ALL)
def test_amplitudes_start_from_a_standard_normal_distribution(kind, options):
    torch.manual_seed(0)
    basis = kind(4, 20, 200, **options)
    amplitudes = [getattr(basis, basis.amplitude)]
    if kind is Rational:
        amplitudes.append(basis.denominator)
    for amplitude in amplitudes:
        assert kstest(amplitude.detach().flatten().numpy(), 'norm').pvalue > 1e-3


@pytest.mark.parametrize('kind, options', [(k, o) for k, o in ALL if k is not Rational])
def test_outputs_start_no_wider_than_their_gain(kind, options):
    torch.manual_seed(0)
    y = kind(4, 8, 200, gain=0.5, **options)(torch.randn(4, 4, 50, 200))
    assert 0.1 < y.std().item() < 0.55


def test_fourier_starts_with_the_gain_or_with_what_it_says():
    torch.manual_seed(0)
    for gain in (0.5, None):
        basis = Fourier(4, 8, 200, gain)
        y = basis(torch.randn(4, 4, 50, 200))
        assert y.std().item() == pytest.approx(basis.output_std, rel=0.05)


@pytest.mark.parametrize('kind, options', ALL)
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_types_are_rounded_but_once(kind, options, dtype, tolerance):
    basis, x = make(kind, **options)
    if kind is Wavelet:
        torch.nn.init.uniform_(basis.scale, 0.5, 2.0)
    basis = basis.to(dtype).double()  # parameters rounded
    x = x.to(dtype)
    want = basis(x.double())
    got = basis.to(dtype)(x)
    assert got.dtype == dtype
    assert (got.double() - want).norm() <= tolerance * want.norm()


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(basis='furier'), ["'furier'", 'fourier', 'bspline', 'wavelet', 'rational']),
        (dict(basis=dict(grid=3)), ['None', 'fourier']),
        (dict(basis=dict(type='fourier', grid=0)), ['grid=0', 'from 1 to']),
        (dict(basis=dict(type='fourier', grid=2.5)), ['grid=2.5', 'whole number']),
        (dict(basis=dict(type='bspline', grid=0)), ['grid=0', 'from 1 to']),
        (dict(basis=dict(type='bspline', grid=2, order=3)), ['order=3', 'from 1 to 2']),
        (dict(basis=dict(type='bspline', order=0)), ['order=0', 'from 1 to 5']),
        (dict(basis=dict(type='bspline', order=1.5)), ['order=1.5', 'whole number']),
        (dict(basis=dict(type='bspline', range=3)), ['range=3', 'rise']),
        (dict(basis=dict(type='rational', order=(5,))), ['order=(5,)', 'two whole numbers']),
        (dict(basis=7), ['basis=7', 'fourier']),
        (dict(basis=dict(type='bspline', range=(1, 1))), ['range=(1, 1)', 'rise']),
        (dict(basis=dict(type='wavelet', wavelet='haar')), ["'haar'", *WAVELETS]),
        (dict(basis=dict(type='wavelet', wavelet=['meyer'])), ["wavelet=['meyer']", *WAVELETS]),
        (dict(basis=dict(type='rational', order=(-1, 2))), ['order=(-1, 2)']),
        (dict(base='swish'), ["base='swish'", 'zero', 'silu']),
    ],
)
def test_wrong_arguments_are_refused_with_name_and_value(arguments, words):
    with pytest.raises(ValueError) as raised:
        layer(**arguments)
    for word in words:
        assert word in str(raised.value)


# The layer made of a basis and a base function


def layer(**arguments):
    torch.manual_seed(0)
    defaults = dict(basis='fourier', base='zero', scales=False)
    defaults.update(freeze_basis=False, freeze_base=False, fused=True)
    kan = KANLayer(HEADS, OUTPUTS, INPUTS, gain=1.0, **{**defaults, **arguments}).double()
    if kan.basis_scale is not None:
        torch.nn.init.normal_(kan.basis_scale)
        torch.nn.init.normal_(kan.base_scale)
    return kan


FORMULAS = {
    'identity': lambda x: x,
    'relu': lambda x: np.maximum(x, 0),
    'silu': lambda x: x / (1 + np.exp(-x)),
    'gelu': lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2,
    'elu': lambda x: np.where(x > 0, x, np.exp(x) - 1),
    'tanh': np.tanh,
    'sigmoid': lambda x: 1 / (1 + np.exp(-x)),
    'softplus': lambda x: np.log1p(np.exp(x)),
}


@pytest.mark.parametrize('base', [name for name in BASE_FUNCTIONS if name != 'zero'])
def test_a_base_function_is_added_without_a_weight(base):
    kan, x = layer(base=base), torch.randn(2, HEADS, 5, INPUTS, dtype=torch.float64)
    want = kan.basis(x) + pair_by_pair(x, lambda h, o, i, x: FORMULAS[base](x))
    torch.testing.assert_close(kan(x), want, rtol=1e-10, atol=1e-10)
    assert len(list(kan.parameters())) == len(list(kan.basis.parameters()))
    assert kan.state_dict().keys() == layer().state_dict().keys()


@pytest.mark.parametrize('basis', ['fourier', 'bspline', 'wavelet', 'rational'])
def test_scales_multiply_base_and_basis_as_in_pykan(basis):
    kan, x = layer(basis=basis, base='silu', scales=True), torch.randn(2, HEADS, 5, INPUTS).double()
    base, scale = kan.base_scale.detach().numpy(), kan.basis_scale.detach().numpy()
    single = layer(basis=basis)  # the same functions

    def function(h, o, i, x):
        alone = torch.zeros(*x.shape[:1], HEADS, x.shape[1], INPUTS, dtype=torch.float64)
        for parameter, of in zip(single.basis.parameters(), kan.basis.parameters(), strict=True):
            parameter.data.copy_(of.data)
        amplitude = getattr(single.basis, single.basis.amplitude).data
        others = torch.ones(INPUTS, dtype=torch.bool)
        others[i] = False
        amplitude[..., others] = 0
        alone[:, h, :, i] = torch.from_numpy(x)
        phi = single(alone)[:, h, :, o].detach().numpy()
        return base[h, o, i] * FORMULAS['silu'](x) + scale[h, o, i] * phi

    torch.testing.assert_close(kan(x), pair_by_pair(x, function), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('freeze_basis', [False, True])
@pytest.mark.parametrize('freeze_base', [False, True])
def test_basis_and_base_freeze_apart(freeze_basis, freeze_base):
    kan = layer(base='silu', scales=True, freeze_basis=freeze_basis, freeze_base=freeze_base)
    assert kan.base_scale.requires_grad is not freeze_base
    for parameter in (*kan.basis.parameters(), kan.basis_scale):
        assert parameter.requires_grad is not freeze_basis
    x = torch.randn(2, HEADS, 5, INPUTS, dtype=torch.float64, requires_grad=True)
    kan(x).sum().backward()
    assert x.grad.any()


def test_the_scale_of_no_base_function_is_counted_but_not_trained():
    kan = layer(scales=True)
    assert not kan.base_scale.requires_grad
    kan(torch.randn(2, HEADS, 5, INPUTS).double()).sum().backward()
    assert all(p.grad is not None for p in kan.parameters() if p.requires_grad)


BASES = ['fourier', 'bspline', 'wavelet', 'rational']


@pytest.mark.parametrize('chunk', [1, 2 * HEADS * OUTPUTS * INPUTS * 2, 10**6])
@pytest.mark.parametrize('base, scales', [('zero', False), ('silu', False), ('silu', True)])
@pytest.mark.parametrize('basis', BASES)
def test_fused_and_plain_layers_agree_forward_and_backward(basis, base, scales, chunk, monkeypatch):
    monkeypatch.setattr(module, '_CHUNK', chunk)
    generator = torch.Generator().manual_seed(1)
    q, k, x, grad, values = (
        torch.randn(2, HEADS, rows, columns, generator=generator, dtype=torch.float64)
        for rows, columns in ((5, 6), (INPUTS, 6), (5, INPUTS), (5, OUTPUTS), (OUTPUTS, 7))
    )
    results = []
    for fused in (True, False):
        kan = layer(basis=basis, base=base, scales=scales, fused=fused)
        leaves = [t.requires_grad_() for t in (q, k, x, values)]
        outputs = kan.of_scores(q, k, 0.6), kan(x), kan.combine(x, values)
        loss = (outputs[0] * grad).sum() + (outputs[1] * grad).sum() + outputs[2].square().sum()
        results.append((*outputs, *torch.autograd.grad(loss, [*leaves, *kan.parameters()])))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(results[1][0], kan(0.6 * q @ k.mT), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[1][2], kan(x) @ values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('basis', BASES)
def test_the_fused_layer_saves_no_expansion_for_backward(basis, monkeypatch):
    monkeypatch.setattr(module, '_CHUNK', 2 * HEADS * OUTPUTS * INPUTS)
    x = torch.randn(2, HEADS, 50, INPUTS, dtype=torch.float64, requires_grad=True)

    def saved(fused):
        sizes = [0]
        kan = layer(basis=basis, fused=fused)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        )
        with hooks:
            kan(x)
        return sum(sizes)

    # Slices of the input, and nothing of its size times functions.
    assert saved(True) <= 2 * x.numel() < saved(False)
