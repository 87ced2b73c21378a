import numpy as np
import pytest
import torch

from kat_mm.fits import available_fits, get_fit
from kat_mm.fits.fitter import FUNCTIONS, evaluate_fit
from kat_mm.layers import GroupRational


@pytest.mark.parametrize('name', available_fits())
def test_module_starts_as_the_packaged_fit(name):
    fit = get_fit(name)
    x = np.linspace(*fit.interval, 160)
    module = GroupRational(8, num_groups=4, num_numerator_groups=2, act_init=name)
    y = module(torch.tensor(x, dtype=torch.float32).view(20, 8))
    want = torch.from_numpy(evaluate_fit(fit, x)).view(20, 8)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-6)


def test_parameters_have_the_official_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in GroupRational(48).named_parameters()}
    assert shapes == {'weight_numerator': (1, 6), 'weight_denominator': (8, 4)}


def test_order_above_the_table_keeps_the_identity_exact():
    x = torch.linspace(-30, 30, 40).view(-1, 8)
    module = GroupRational(8, order=(7, 5), act_init='identity', act_interval=(-2, 2))
    assert torch.equal(module(x), x)
    assert module.weight_denominator.shape == (8, 5)


@pytest.mark.parametrize(
    'order, interval, error',
    [((9, 8), None, 4e-5), ((7, 6), (-6, 6), 5e-4), ((5, 4), (-4, 4), 2.1e-3)],
)
def test_order_and_interval_other_than_the_tables_are_fitted_anew(order, interval, error):
    lo, hi = interval or (-8, 8)
    x = torch.linspace(lo, hi, 4000, dtype=torch.float64).view(-1, 8)
    module = GroupRational(8, order=order, act_init='gelu', act_interval=interval)
    # In float32, as training has it.
    largest = (module(x.float()).double() - torch.nn.functional.gelu(x)).abs().max()
    assert largest < error
    assert (
        largest < (GroupRational(8, act_init='gelu')(x) - torch.nn.functional.gelu(x)).abs().max()
    )


@pytest.mark.parametrize('order, error', [((4, 4), 0.03), ((3, 2), 0.16), ((6, 3), 0.03)])
def test_order_below_the_table_is_fitted_anew(order, error):
    module = GroupRational(8, num_groups=2, order=order, act_init='gelu')
    assert module.weight_numerator.shape == (1, order[0] + 1)
    assert module.weight_denominator.shape == (2, order[1])
    x = torch.linspace(-8, 8, 400).view(50, 8)
    exact = torch.from_numpy(FUNCTIONS['gelu'](x.double().numpy()))
    assert (module(x) - exact).abs().max() < error


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(num_channels=20), ['num_groups=8', '20 channels']),
        (dict(num_channels=16, num_groups=0), ['num_groups=0', 'from 1 up']),
        (dict(num_channels=16, num_numerator_groups=3), ['num_numerator_groups=3', '16 channels']),
        (dict(num_channels=16, act_init='swich'), ["'swich'", "did you mean 'swish'", 'gelu']),
        (dict(num_channels=16, order=(5, -1)), ['order', '(5, -1)']),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_name_and_value(arguments, words):
    with pytest.raises(ValueError) as raised:
        GroupRational(**arguments)
    for word in words:
        assert word in str(raised.value)
