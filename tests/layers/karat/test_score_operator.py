import copy
import math

import pytest
import torch
from karat_operators import GRID, HEADS, KAN, KINDS, RANK, SHANNON, make, tokens
from scipy.stats import kstest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from kat_mm.layers.karat import ScoreOperator, kan_layer, project_simplex
from kat_mm.layers.karat.linear_map import LinearMap
from kat_mm.layers.karat.token_axis import resize_token_axis
from kat_mm.ops import fourier_low_rank

ORDERS = {
    'phi1_w2': 'pw',
    'w1_phi2': 'wp',
    'full': 'p',
    'phi2_phi1': 'pp',
    'w3_phi2_phi1': 'ppw',
    'phi3_phi2_w1': 'wpp',
    'phi3_phi2_phi1': 'ppp',
}


def explicit(operator, kind, q, k):
    """Weights of all heads, layer by layer, with the functions written out."""
    x = torch.einsum('bhid,bhjd->bhij', q, k) / math.sqrt(q.shape[-1])
    for layer, what in zip(operator.layers, ORDERS[kind], strict=True):
        if what == 'w':
            if operator.project_l1 == 'hidden':
                x = project_simplex(x)
            x = torch.einsum('bhij,hrj->bhir', x, layer.weight)
            continue
        a, b = layer.basis.coefficients.chunk(2, dim=1)
        frequencies = torch.arange(1, a.shape[1] + 1, dtype=torch.float64)
        angle = x[..., None] * frequencies  # (B, heads, queries, inputs, G)
        x = torch.einsum('bhijg,hgoj->bhio', torch.cos(angle), a)
        x = x + torch.einsum('bhijg,hgoj->bhio', torch.sin(angle), b)
    return project_simplex(x) if operator.project_l1 is True else x


def assert_equal_to_the_formula(operator, kind):
    q, k, v = tokens(7)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    leaves += list(operator.parameters())
    want = explicit(operator, kind, *leaves[:2])
    torch.testing.assert_close(operator(*leaves[:2], None, GRID), want, rtol=1e-10, atol=1e-11)
    got, want = operator(*leaves[:3], GRID), want @ leaves[2]
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad),
        torch.autograd.grad(want, leaves, grad),
        rtol=1e-8,
        atol=1e-10,
    )


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_weights_and_weighted_values_equal_the_formula_forward_and_backward(kind, fused):
    assert_equal_to_the_formula(make(kind, fused=fused), kind)


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize(
    'kind, project_l1', [*((kind, True) for kind in KINDS), ('phi1_w2', 'hidden')]
)
def test_projections_act_on_the_weights_of_a_row_or_before_the_linear_map(kind, project_l1, fused):
    operator = make(kind, project_l1=project_l1, fused=fused)
    assert_equal_to_the_formula(operator, kind)
    q, k, v = tokens(7)
    if project_l1 is True:
        weights = operator(q, k, None, GRID)
        assert weights.min() >= 0 and weights.max() <= 1
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, HEADS, 7).double())


@pytest.mark.parametrize(
    'kind, options, calls',
    [
        *((kind, {}, int(kind not in ('w1_phi2', 'phi3_phi2_w1'))) for kind in KINDS),
        ('phi1_w2', dict(scales=True), 1),
        ('phi1_w2', dict(base='silu'), 1),
        ('phi1_w2', dict(project_l1='hidden'), 1),
        ('phi1_w2', dict(project_l1=True), 1),
        ('phi1_w2', dict(fused=False), 0),
        ('phi1_w2', dict(basis='bspline'), 0),
        ('phi1_w2', dict(basis='wavelet'), 0),
        ('phi1_w2', dict(basis='rational'), 0),
    ],
)
def test_one_fused_operator_serves_the_functions_of_scores(kind, options, calls, monkeypatch):
    called = []

    def counted(*args):
        called.append(args)
        return fourier_low_rank(*args)

    monkeypatch.setattr(kan_layer, 'fourier_low_rank', counted)
    make(kind, **options)(*tokens(7), GRID)
    assert len(called) == calls


def listened(operator, name):
    """Inputs and outputs of a module in one pass, by its own hook, and what the operator gives."""
    seen = []
    module = operator.get_submodule(name)
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    result = operator(*tokens(7), GRID)
    handle.remove()
    return seen, result


@pytest.mark.parametrize('basis', ['fourier', 'bspline', 'wavelet'])
@pytest.mark.parametrize('kind', KINDS)
def test_hooks_on_layers_and_bases_see_whole_tensors(kind, basis, monkeypatch):
    monkeypatch.setattr(kan_layer, '_CHUNK', 1)  # rows one by one where nobody listens
    operator = make(kind, basis=basis)
    q, k, v = tokens(7)
    want, x = operator(q, k, v, GRID), q @ k.mT / math.sqrt(q.shape[-1])
    for index, layer in enumerate(operator.layers):
        y = layer(x)
        for name in (f'layers.{index}', f'layers.{index}.basis'):
            if name in dict(operator.named_modules()):
                seen, result = listened(operator, name)
                assert len(seen) == 1
                torch.testing.assert_close(seen[0], (x, y), rtol=1e-9, atol=1e-10)
                torch.testing.assert_close(result, want, rtol=1e-9, atol=1e-10)
        x = y


@pytest.mark.parametrize('kind', KINDS)
def test_a_global_hook_sees_layers_and_bases(kind):
    operator, seen = make(kind), []
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        operator(*tokens(7), GRID)
    finally:
        handle.remove()
    wanted = [module for module in operator.modules() if not isinstance(module, nn.ModuleList)]
    assert len(seen) == len(wanted) and set(seen) == set(wanted)


class Tripled(nn.Module):
    """Around a layer or a basis, as adapters are; or around a parameter."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner or nn.Identity()

    def forward(self, x):
        return 3 * self.inner(x)


def wrap_forward(module):
    forward = module.forward
    module.forward = lambda x: 3 * forward(x)


@pytest.mark.parametrize(
    'replace',
    [
        lambda o: o.layers.__setitem__(0, Tripled(o.layers[0])),
        lambda o: o.layers.__setitem__(1, Tripled(o.layers[1])),
        lambda o: setattr(o.layers[0], 'basis', Tripled(o.layers[0].basis)),
        lambda o: wrap_forward(o.layers[0]),
        lambda o: wrap_forward(o.layers[1]),
        lambda o: wrap_forward(o.layers[0].basis),
        lambda o: parametrize.register_parametrization(o.layers[1], 'weight', Tripled()),
        lambda o: parametrize.register_parametrization(
            o.layers[0].basis, 'coefficients', Tripled()
        ),
    ],
)
def test_replaced_layers_and_bases_compute_their_own_function(replace):
    operator = make('phi1_w2')
    want = 3 * operator(*tokens(7), GRID)  # linear in all of them
    replace(operator)
    got = operator(*tokens(7), GRID)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    assert all(grad.any() for grad in torch.autograd.grad(got.sum(), [*operator.parameters()]))


@pytest.mark.parametrize('basis', ['fourier', 'bspline', 'wavelet', 'rational'])
def test_parametrised_bases_are_scaled_too(basis):
    operator, other = (make('phi1_w2', basis=basis, scales=True) for _ in range(2))
    with torch.no_grad():
        operator.layers[0].basis_scale.uniform_(3, 6)
        other.layers[0].basis_scale.copy_(operator.layers[0].basis_scale / 3)
    name = other.layers[0].basis.amplitude
    parametrize.register_parametrization(other.layers[0].basis, name, Tripled())
    want, got = operator(*tokens(7), GRID), other(*tokens(7), GRID)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('basis, per_pair', [('fourier', 2 * 3), ('wavelet', 3), ('rational', 10)])
@pytest.mark.parametrize('scales', [False, True])
def test_parameters_are_as_many_as_the_formulas_say(basis, per_pair, scales):
    n, r, pair = 7, RANK, per_pair + 2 * scales
    for kind, count in {
        'full': n * n * pair,
        'phi1_w2': n * r * pair + r * n,
        'w1_phi2': r * n + r * n * pair,
        'phi2_phi1': 2 * n * r * pair,
        'w3_phi2_phi1': (n * r + r * r) * pair + r * n,
        'phi3_phi2_phi1': (2 * n * r + r * r) * pair,
    }.items():
        for base in ('zero', 'silu'):
            parameters = make(kind, basis=basis, base=base, scales=scales).parameters()
            assert sum(p.numel() for p in parameters) == HEADS * count


@pytest.mark.parametrize('kind, start', [('phi1_w2', 'normal'), *((k, 'scaled') for k in KINDS)])
def test_outputs_start_with_about_the_variance_of_the_values(kind, start):
    torch.manual_seed(0)
    operator = ScoreOperator(HEADS, (10, 10), 0, *KINDS[kind], 12, False, start, KAN)
    q, k, v = torch.randn(3, 4, HEADS, 100, 16)
    assert 0.5 < operator(q, k, v, (10, 10)).std().item() < 2


@pytest.mark.parametrize('kind', KINDS)
def test_functions_start_from_a_standard_normal_distribution(kind):
    for layer in make(kind, (5, 5), start='normal').layers:
        if not isinstance(layer, LinearMap):
            coefficients = layer.basis.coefficients.detach().flatten()
            assert kstest(coefficients.numpy(), 'norm').pvalue > 1e-3


# Other grids


def test_resizing_interpolates_bilinearly_along_the_grid_and_keeps_the_extra_token_and_sums():
    weight = torch.randn(2, 1 + 6, 4, dtype=torch.float64)
    got = resize_token_axis(weight, 1, GRID, (4, 6), 1)
    assert torch.equal(got[:, 0], weight[:, 0])
    # Twice as many along each axis: a quarter of the weight each, at quarters between centres.
    image = weight[:, 1:].reshape(2, 2, 3, 4)
    image = nn.functional.pad(image.permute(0, 3, 1, 2), (1, 1, 1, 1), mode='replicate')
    rows = torch.stack([0.25 * image[..., i, :] + 0.75 * image[..., i + 1, :] for i in (0, 1)])
    below = torch.stack([0.75 * image[..., i, :] + 0.25 * image[..., i + 1, :] for i in (1, 2)])
    image = torch.stack([rows, below], dim=1).flatten(0, 1)  # (4 rows, 2, 4, 5)
    left = torch.stack([0.25 * image[..., i] + 0.75 * image[..., i + 1] for i in range(3)], -1)
    right = torch.stack([0.75 * image[..., i] + 0.25 * image[..., i + 1] for i in range(1, 4)], -1)
    want = torch.stack([left, right], dim=-1).flatten(-2) / 4  # (4, 2, 4, 6)
    torch.testing.assert_close(got[:, 1:], want.permute(1, 0, 3, 2).flatten(1, 2))
    for to_grid in ((4, 6), (1, 1), (3, 7)):
        constant = torch.ones(1, 7)
        resized = resize_token_axis(constant, 1, GRID, to_grid, 1)
        assert resized.sum().item() == pytest.approx(7.0)


@pytest.mark.parametrize('basis', ['fourier', 'bspline'])
@pytest.mark.parametrize('base', ['zero', 'tanh'])
@pytest.mark.parametrize('kind', KINDS)
def test_on_a_finer_image_of_constant_patches_the_result_is_the_same(kind, base, basis):
    operator = make(kind, basis=basis, base=base)
    for name, parameter in operator.named_parameters():
        # Equal parameters for all patches, and others for the class token.
        for dim in operator._token_dims(name):
            patches = parameter.data.narrow(dim, 1, 6)
            patches.copy_(patches.mean(dim=dim, keepdim=True).expand_as(patches))
    small = tokens(2).repeat_interleave(torch.tensor([1, 6]), dim=3)
    large = tokens(2).repeat_interleave(torch.tensor([1, 30]), dim=3)
    got, want = operator(*large, (5, 6)), operator(*small, GRID)
    torch.testing.assert_close(got[:, :, :2], want[:, :, :2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('basis', ['fourier', 'bspline'])
@pytest.mark.parametrize('kind', KINDS)
def test_parameters_learn_through_the_interpolation(kind, basis):
    gradients = []
    for fused in (True, False):
        operator = make(kind, basis=basis, base='silu', fused=fused)
        loss = operator(*tokens(1 + 12), (3, 4)).square().sum()
        gradients.append(torch.autograd.grad(loss, list(operator.parameters())))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert all(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize(
    'kan', [dict(basis='wavelet'), dict(basis='rational'), dict(scales=True)], ids=str
)
def test_functions_that_are_not_linear_refuse_other_grids(kan):
    operator = make('phi1_w2', **kan)
    operator(*tokens(7), GRID)
    with pytest.raises(ValueError, match=r'grid of \(2, 3\) patches and got one of \(3, 4\).*four'):
        operator(*tokens(13), (3, 4))


# Checkpoints


def without_metadata(state):
    return {key: value for key, value in state.items()}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('basis', ['fourier', 'wavelet'])
def test_a_checkpoint_with_a_class_token_loads_where_there_is_none(kind, basis):
    source, target = make(kind, (3, 3), 1, basis=basis), make(kind, (3, 3), 0, basis=basis)
    for state in (source.state_dict(), without_metadata(source.state_dict())):
        target.load_state_dict(state)
        for name, parameter in target.named_parameters():
            want = source.get_parameter(name)
            for dim in target._token_dims(name):
                want = want.narrow(dim, 1, 9)
            assert torch.equal(parameter, want)


@pytest.mark.parametrize('kind', KINDS)
def test_a_checkpoint_of_another_grid_loads_as_it_would_have_run_there(kind):
    source, target = make(kind, (2, 3), 1), make(kind, (4, 5), 1)
    target.load_state_dict(source.state_dict())
    inputs = tokens(21)
    torch.testing.assert_close(target(*inputs, (4, 5)), source(*inputs, (4, 5)))


@pytest.mark.parametrize(
    'source, target, words',
    [
        (dict(grid=(3, 3), basis='wavelet'), dict(basis='wavelet'), ['(3, 3)', 'Wavelet']),
        (dict(extra=0), dict(extra=1), ['size mismatch']),
        (dict(grid=(3, 3), scales=True), dict(scales=True), ['(3, 3)', 'Fourier with scales']),
        (SHANNON, dict(SHANNON, extra=0), ['class token', 'shannon']),
        (dict(basis='bspline'), dict(), ['size mismatch']),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(source, target, words):
    state = make('phi1_w2', **source).state_dict()
    target = make('phi1_w2', **target)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(RuntimeError) as raised:
        target.load_state_dict(state)
    for word in words:
        assert word in str(raised.value)
    assert target.state_dict().keys() == before.keys()
