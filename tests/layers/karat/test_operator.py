import copy
import math

import pytest
import torch
from torch import nn

from kat_mm.layers.karat.operators import OPERATORS
from kat_mm.layers.karat.token_axis import resize_token_axis

HEADS, RANK, GRID = 2, 5, (2, 3)
KAN = dict(basis='fourier', base='zero', freeze_basis=False, freeze_base=False, fused=True)


def make(kind, grid=GRID, extra=1, **kan):
    torch.manual_seed(0)
    return OPERATORS[kind](HEADS, grid, extra, RANK, {**KAN, **kan}).double()


def tokens(count, batch=3, dims=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, batch, HEADS, count, dims, generator=generator, dtype=torch.float64)


def explicit(operator, kind, q, k):
    """Weights of head h, query by query, with the functions written out."""
    scores = torch.einsum('bhid,bhjd->bhij', q, k) / math.sqrt(q.shape[-1])
    a, b = operator.phi.basis.coefficients.chunk(2, dim=1)
    frequencies = torch.arange(1, a.shape[1] + 1, dtype=torch.float64)

    def phi(x):
        angle = x[..., None] * frequencies  # (B, heads, queries, inputs, G)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return torch.einsum('bhijg,hgoj->bhio', cos, a) + torch.einsum('bhijg,hgoj->bhio', sin, b)

    if kind == 'full':
        return phi(scores)
    if kind == 'phi1_w2':
        return torch.einsum('bhir,hjr->bhij', phi(scores), operator.weight)
    return phi(torch.einsum('bhij,hrj->bhir', scores, operator.weight))


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('kind', OPERATORS)
def test_weights_and_weighted_values_equal_the_formula_forward_and_backward(kind, fused):
    operator, (q, k, v) = make(kind, fused=fused), tokens(7)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    leaves += list(operator.parameters())
    want = explicit(operator, kind, *leaves[:2])
    torch.testing.assert_close(operator(*leaves[:2], None, GRID), want, rtol=1e-11, atol=1e-12)
    got, want = operator(*leaves[:3], GRID), want @ leaves[2]
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad),
        torch.autograd.grad(want, leaves, grad),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize('basis, per_pair', [('fourier', 2 * 3), ('wavelet', 3), ('rational', 10)])
@pytest.mark.parametrize('base, base_weights', [('zero', 0), ('silu', 1)])
def test_parameters_are_as_many_as_the_formulas_say(basis, per_pair, base, base_weights):
    n, pair = 7, per_pair + base_weights
    for kind, count in {
        'full': n * n * pair,
        'phi1_w2': n * RANK * pair + RANK * n,
        'w1_phi2': RANK * n + RANK * n * pair,
    }.items():
        parameters = make(kind, basis=basis, base=base).parameters()
        assert sum(p.numel() for p in parameters) == HEADS * count


@pytest.mark.parametrize('kind', OPERATORS)
def test_outputs_start_with_about_the_variance_of_the_values(kind):
    torch.manual_seed(0)
    operator = OPERATORS[kind](HEADS, (10, 10), 0, 12, KAN)
    q, k, v = torch.randn(3, 4, HEADS, 100, 16)
    assert 0.5 < operator(q, k, v, (10, 10)).std().item() < 2


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
@pytest.mark.parametrize('kind', OPERATORS)
def test_on_a_finer_image_of_constant_patches_the_result_is_the_same(kind, basis):
    operator = make(kind, basis=basis)
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
@pytest.mark.parametrize('kind', OPERATORS)
def test_parameters_learn_through_the_interpolation(kind, basis):
    gradients = []
    for fused in (True, False):
        operator = make(kind, basis=basis, base='silu', fused=fused)
        loss = operator(*tokens(1 + 12), (3, 4)).square().sum()
        gradients.append(torch.autograd.grad(loss, list(operator.parameters())))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert all(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize('basis', ['wavelet', 'rational'])
def test_functions_that_are_not_linear_refuse_other_grids(basis):
    operator = make('phi1_w2', basis=basis)
    operator(*tokens(7), GRID)
    with pytest.raises(ValueError, match=r'grid of \(2, 3\) patches and got one of \(3, 4\).*four'):
        operator(*tokens(13), (3, 4))


# Checkpoints


def without_metadata(state):
    return {key: value for key, value in state.items()}


@pytest.mark.parametrize('kind', OPERATORS)
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


@pytest.mark.parametrize('kind', OPERATORS)
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
