import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from kat_mm.fits import get_fit
from kat_mm.fits.fitter import FUNCTIONS
from kat_mm.layers import GroupRational
from kat_mm.layers.init import mimetic_, squared_gain, trunc_normal_, variance_preserving_


def normal_density(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(
    'name, published', [('identity', 1.0), ('swish', 2.807), ('gelu', 2.349), ('tanh', None)]
)
def test_squared_gain_is_that_of_the_exact_function(name, published):
    def integrand(z):
        return float(FUNCTIONS[name](np.float64(z))) ** 2 * normal_density(z)

    exact = 1 / quad(integrand, -12, 12)[0]
    gain = squared_gain(get_fit(name))
    assert gain == pytest.approx(exact, rel=5e-3)
    assert published is None or gain == pytest.approx(published, rel=5e-3)


@pytest.mark.parametrize('name', ['identity', 'swish', 'gelu', 'relu', 'sigmoid'])
def test_variance_preserving_weights_give_unit_variance_behind_the_activation(name):
    torch.manual_seed(0)
    activation, linear = GroupRational(256, act_init=name), nn.Linear(256, 16384)
    variance_preserving_(linear, activation.fit)
    with torch.no_grad():
        # Many outputs, since the mean of F gives all samples of an output a common part.
        y = linear(activation(torch.randn(512, 256)))
    assert (linear.bias == 0).all()
    assert y.square().mean().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize('module', [nn.Linear(300, 200), nn.Conv2d(3, 64, 16)])
def test_trunc_normal_has_the_std_of_deit(module):
    torch.manual_seed(0)
    trunc_normal_(module)
    assert module.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert (module.bias == 0).all()


def low_rank_target(noise, identity, channels, rank):
    """The best approximation of noise * Z + identity * I, by a plain SVD."""
    bound = math.sqrt(3 / channels)
    product = noise * torch.empty(channels, channels).uniform_(-bound, bound)
    u, s, vh = torch.linalg.svd(product + identity * torch.eye(channels))
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def statistics(product):
    """Mean of the diagonal, variance of the rest, and the mean of each tenth of the spectrum."""
    off_diagonal = product[~torch.eye(len(product), dtype=torch.bool)]
    spectrum = torch.linalg.svdvals(product)
    tenths = [chunk.mean() for chunk in spectrum.chunk(10)]
    return torch.stack([product.diagonal().mean(), off_diagonal.var() * len(product), *tenths])


@pytest.fixture(scope='module')
def mimetic():
    torch.manual_seed(0)
    qkv, proj = nn.Linear(192, 576), nn.Linear(192, 192)
    mimetic_(qkv, proj, num_heads=3)
    return qkv, proj


@pytest.mark.parametrize('head', range(3))
def test_mimetic_query_and_key_of_a_head_correlate_like_noise_plus_identity(mimetic, head):
    q, k, _ = mimetic[0].weight.detach().view(3, 3, 64, 192)[:, head]
    target = low_rank_target(0.7, 0.7, 192, 64)
    torch.testing.assert_close(statistics(q.T @ k), statistics(target), rtol=0.05, atol=0.02)
    # Both take the same share of each singular value.
    torch.testing.assert_close(q @ q.T, k @ k.T, rtol=1e-3, atol=1e-3)


def test_mimetic_noise_differs_between_heads(mimetic):
    q, k, _ = mimetic[0].weight.detach().view(3, 3, 64, 192)
    products = (q.mT @ k).flatten(1) - (0.7 * torch.eye(192)).flatten()
    assert torch.corrcoef(products).triu(1).abs().max() < 0.2


def test_mimetic_value_and_projection_correlate_like_noise_minus_identity(mimetic):
    qkv, proj = (linear.weight.detach() for linear in mimetic)
    value = qkv[384:]
    product = value.T @ proj.T  # a token's way through both, without attention
    target = low_rank_target(0.4, -0.4, 192, 192)
    torch.testing.assert_close(statistics(product), statistics(target), rtol=0.05, atol=0.02)
    assert product.diagonal().mean().item() == pytest.approx(-0.4, abs=0.01)
    off_diagonal = product[~torch.eye(192, dtype=torch.bool)]
    assert off_diagonal.var().item() == pytest.approx(0.4**2 / 192, rel=0.03)


def test_mimetic_biases_are_zero(mimetic):
    assert all((linear.bias == 0).all() for linear in mimetic)
