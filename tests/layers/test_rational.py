import numpy as np
import pytest
import torch

from kat_mm.layers import GroupRational
from kat_mm.ops.coefficients import FUNCTIONS, available_fits, evaluate, get_fit


@pytest.mark.parametrize('name', available_fits())
def test_module_starts_as_the_packaged_fit(name):
    fit = get_fit(name)
    x = np.linspace(*fit.interval, 160)
    module = GroupRational(8, num_groups=4, num_numerator_groups=2, init=name)
    y = module(torch.tensor(x, dtype=torch.float32).view(20, 8))
    want = torch.from_numpy(evaluate(fit, x)).view(20, 8)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-6)


def test_parameters_have_the_official_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in GroupRational(48).named_parameters()}
    assert shapes == {'weight_numerator': (1, 6), 'weight_denominator': (8, 4)}


def test_order_above_the_table_is_the_same_function():
    x = torch.linspace(-3, 3, 40).view(5, 8)
    module = GroupRational(8, order=(7, 5), init='swish')
    assert module.weight_numerator.shape == (1, 8) and module.weight_denominator.shape == (8, 5)
    assert torch.equal(module(x), GroupRational(8, init='swish')(x))


@pytest.mark.parametrize('order, error', [((4, 4), 0.03), ((3, 2), 0.16), ((6, 3), 0.03)])
def test_order_below_the_table_is_fitted_anew(order, error):
    module = GroupRational(8, num_groups=2, order=order, init='gelu')
    assert module.weight_numerator.shape == (1, order[0] + 1)
    assert module.weight_denominator.shape == (2, order[1])
    x = torch.linspace(-8, 8, 400).view(50, 8)
    exact = torch.from_numpy(FUNCTIONS['gelu'](x.double().numpy()))
    assert (module(x) - exact).abs().max() < error


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(num_channels=20), ['num_groups=8', '20 channels']),
        (dict(num_channels=16, num_groups=0), ['num_groups=0', '16 channels']),
        (dict(num_channels=16, num_numerator_groups=3), ['num_numerator_groups=3', '16 channels']),
        (dict(num_channels=16, init='swich'), ["'swich'", "did you mean 'swish'", 'gelu']),
        (dict(num_channels=16, order=(5, -1)), ['order', '(5, -1)']),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_name_and_value(arguments, words):
    with pytest.raises(ValueError) as raised:
        GroupRational(**arguments)
    for word in words:
        assert word in str(raised.value)
