"""feed_forward: its node of the graph, and the plain composition, against float64."""

import sys

import pytest
import torch
import torch.nn.functional as F

from kat_mm.fits import get_fit
from kat_mm.ops import FeedForwardParameters, feed_forward, group_rational

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
EPS = 1e-6
OPERATOR = sys.modules['kat_mm.ops.feed_forward']._operator  # the function has its module's name


def make(device, branch_dtype=torch.float32, channels=24, tokens=5):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator) * scale).to(device)

    def act(name):
        fit = get_fit(name)
        numerator, denominator = torch.tensor([fit.numerator]), torch.tensor([fit.denominator] * 8)
        return numerator.to(device), denominator.to(device)

    parameters = FeedForwardParameters(
        normal(channels) + 1,
        normal(channels),
        *act('gelu'),
        normal(4 * channels, channels, scale=0.2),
        normal(4 * channels),
        *act('swish'),
        normal(channels, 4 * channels, scale=0.1),
    )
    x = normal(2, tokens, channels)
    branch = normal(2, tokens, channels).to(branch_dtype)
    return x, branch, torch.tensor([0.0, 1.25], device=device), parameters


def truth(x, branch, scale, p, branch_bias=None):
    if branch_bias is not None:
        branch = branch + branch_bias
    total = x if branch is None else x + branch * scale[:, None, None]
    y = F.layer_norm(total, total.shape[-1:], p.norm_weight, p.norm_bias, EPS)
    y = group_rational(y, p.numerator1, p.denominator1) @ p.weight1.T + p.bias1
    return total, group_rational(y, p.numerator2, p.denominator2) @ p.weight2.T


def node(x, branch, scale, parameters, branch_bias=None):
    """The node itself, which runs under Triton's interpreter too."""
    total, y, *_ = OPERATOR(x, branch, branch_bias, scale, EPS, x.dtype, True, *parameters)
    return (x if branch is None else total), y


def plain(x, branch, scale, parameters, branch_bias=None):
    return feed_forward(x, branch, scale, EPS, parameters, branch_bias)


def leaves_of(values, dtype=None):
    return [v if v is None else v.detach().to(dtype or v.dtype).requires_grad_() for v in values]


def compare(function, x, branch, scale, parameters, tolerance, branch_bias=None):
    leaves = leaves_of([x, branch, branch_bias, *parameters])
    wanted = leaves_of([x, branch, branch_bias, *parameters], torch.float64)
    got = function(*leaves[:2], scale, FeedForwardParameters(*leaves[3:]), leaves[2])
    want = truth(*wanted[:2], scale.double(), FeedForwardParameters(*wanted[3:]), wanted[2])
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=generator).to(x.device) for _ in want]
    if branch is None:  # total is the input itself
        got, want, grads = got[1:], want[1:], grads[1:]
    got_grads = torch.autograd.grad(
        got,
        [v for v in leaves if v is not None],
        [g.to(o.dtype) for g, o in zip(grads, got, strict=True)],
    )
    want_grads = torch.autograd.grad(
        want, [v for v in wanted if v is not None], [g.double() for g in grads]
    )
    for g, w in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        error = (g.double() - w).norm() / w.norm()
        assert error <= tolerance, (g.shape, error.item())
    for g, leaf in zip(got_grads, [v for v in leaves if v is not None], strict=True):
        assert g.dtype == leaf.dtype


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('function', [node, plain])
@pytest.mark.parametrize('with_branch, with_bias', [(True, True), (True, False), (False, False)])
def test_output_and_gradients_equal_float64(function, with_branch, with_bias, device):
    torch.backends.cuda.matmul.allow_tf32 = False
    x, branch, scale, parameters = make(device)
    bias = torch.linspace(-1, 1, x.shape[-1], device=device) if with_bias else None
    compare(function, x, branch if with_branch else None, scale, parameters, 1e-5, bias)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_autocast_stays_within_the_rounding_of_its_dtype(dtype, tolerance):
    def autocast(*inputs):
        with torch.autocast('cuda', dtype):
            total, y = plain(*inputs)
        assert total.dtype == torch.float32 and y.dtype == dtype
        return total, y

    inputs = make('cuda', dtype, channels=192, tokens=197)
    compare(autocast, *inputs, tolerance)


@pytest.mark.gpu
def test_every_way_gives_the_same_numbers_without_gradients_or_compiled():
    x, branch, scale, parameters = make('cuda', torch.bfloat16, channels=192, tokens=197)
    compiled = torch.compile(plain, fullgraph=True)
    outputs = []
    with torch.autocast('cuda', torch.bfloat16):
        outputs.append(plain(*[x.clone().requires_grad_(), branch, scale, parameters]))
        with torch.no_grad():
            outputs.append(plain(x, branch, scale, parameters))
        outputs.append(compiled(x.clone().requires_grad_(), branch, scale, parameters))
    for total, y in outputs[1:]:
        torch.testing.assert_close(total, outputs[0][0])
        error = (y.float() - outputs[0][1].float()).norm() / y.float().norm()
        assert error < 5e-3


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'needed, with_branch', [(True, True), pytest.param(False, False, marks=pytest.mark.slow)]
)
def test_operators_keep_the_rules_of_torch_library(needed, with_branch, device):
    x, branch, scale, parameters = make(device)
    bias = torch.linspace(-1, 1, x.shape[-1], device=device)
    if not with_branch:
        branch = bias = scale = None
    leaves = [v if v is None else v.requires_grad_() for v in (x, branch, bias)]
    for index, parameter in enumerate(parameters):
        parameter.requires_grad_(needed or index not in (4, 8))
    inputs = (*leaves, scale, EPS, torch.float32, True, *parameters)
    operator, backward = (
        getattr(torch.ops.kat_mm, f'feed_forward{suffix}').default for suffix in ('', '_backward')
    )
    torch.library.opcheck(operator, inputs)
    with torch.no_grad():
        total, y, statistics, hidden, *_ = operator(*inputs)
        given = total if with_branch else x.detach()
        grads = torch.ones_like(given) if with_branch else None, torch.ones_like(y)
        saved = given, scale, statistics, hidden, *(p.detach() for p in parameters)
        flags = None if branch is None else branch.dtype, with_branch, needed, needed
        torch.library.opcheck(backward, (*grads, *saved, *flags))


@pytest.mark.parametrize('device', DEVICES)
def test_second_derivatives_are_refused(device):
    x, branch, scale, parameters = make(device)
    x.requires_grad_()
    _, y = node(x, branch, scale, parameters)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='twice'):
        grad.sum().backward()


@pytest.mark.gpu
def test_second_derivatives_are_refused_where_only_cast_weights_are_trained():
    x, _, _, parameters = make('cuda')
    weights = [parameters[index].requires_grad_() for index in (4, 8)]
    _, y, *_ = OPERATOR(x, None, None, None, EPS, torch.bfloat16, True, *parameters)
    grads = torch.autograd.grad(y.sum(), weights, create_graph=True)
    with pytest.raises(NotImplementedError, match='twice'):
        grads[0].sum().backward()


@pytest.mark.parametrize('device', DEVICES)
def test_frozen_parameters_get_no_gradient_and_the_others_keep_theirs(device):
    x, branch, scale, parameters = make(device)

    def gradients(frozen):
        leaves = leaves_of(parameters)
        for index in frozen:
            leaves[index].requires_grad_(False)
        _, y = node(x, branch, scale, FeedForwardParameters(*leaves))
        y.square().sum().backward()
        return [leaf.grad for leaf in leaves]

    want = gradients(())
    for index, (g, w) in enumerate(zip(gradients((4, 8)), want, strict=True)):
        assert (g is None) if index in (4, 8) else torch.equal(g, w)


@pytest.mark.gpu
def test_backward_within_autocast_is_the_same():
    x, branch, scale, parameters = make('cuda', channels=192, tokens=197)

    def gradients(enabled):
        leaves = leaves_of(parameters)
        _, y = plain(x, branch, scale, FeedForwardParameters(*leaves))
        with torch.autocast('cuda', torch.float16, enabled=enabled):
            return torch.autograd.grad(y.square().mean(), leaves)

    torch.testing.assert_close(gradients(True), gradients(False))
