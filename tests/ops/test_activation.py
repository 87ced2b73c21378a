import pytest
import torch
import torch.nn.functional as F

from kat_mm.ops import ACTIVATIONS, activation, backend
from kat_mm.ops.activation_triton import backward, forward

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
# The truth, of torch's own functions.
FUNCTIONS = {
    'gelu': F.gelu,
    'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'),
    'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x),
    'silu': F.silu,
}


@pytest.fixture
def kernels_everywhere(monkeypatch):
    monkeypatch.setattr(backend, 'runs_kernels', lambda x: True)


def random(*shape, seed=0):
    # Far into both tails, and at zero.
    x = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
    x.view(-1)[:3] = torch.tensor([0.0, 30.0, -30.0])[: x.numel()]
    return x


def truth(x, kind, bias, gated):
    x = x if bias is None else x + bias
    if not gated:
        return FUNCTIONS[kind](x)
    half = x.shape[-1] // 2
    return FUNCTIONS[kind](x[..., :half]) * x[..., half:]


def assert_close(got, want, tolerance):
    # What is left of cancellation in the far tail counts against the size of all.
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * want.std())


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('kind', FUNCTIONS)
@pytest.mark.parametrize('dtype', TOLERANCES)
def test_kernels_equal_float64(dtype, kind, gated, device):
    x, bias = random(2, 5, 24).to(device, dtype), random(24, seed=1).float().to(device)
    exact = x.double().requires_grad_(), bias.double().requires_grad_()
    want = truth(exact[0], kind, exact[1], gated)
    grad = torch.randn_like(want).to(dtype)
    want_grads = torch.autograd.grad(want, exact, grad.double())
    got = forward(x, bias, kind, gated)
    grads = backward(grad, x, bias, kind, gated)
    assert got.dtype == grads[0].dtype == dtype and grads[1].dtype == torch.float32
    assert_close(got, want.detach(), TOLERANCES[dtype])
    for g, w in zip(grads, want_grads, strict=True):
        assert_close(g, w, 2 * TOLERANCES[dtype])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('shape', [(1, 2), (3, 1, 10), (300, 34), (0, 8), (7, 96)])
def test_any_shape_layout_and_no_bias(shape, gated, device, kernels_everywhere):
    for bias in (None, random(shape[-1], seed=1).to(device)):
        for x in (random(*shape), random(*shape[::-1]).permute(*range(len(shape))[::-1])):
            x = x.to(device)
            leaf = x.float().requires_grad_()
            given = None if bias is None else bias.float().requires_grad_()
            got = activation(leaf, 'silu', given, gated)
            exact = x.float().double().requires_grad_()
            shift = None if bias is None else bias.float().double().requires_grad_()
            want = truth(exact, 'silu', shift, gated)
            assert got.shape == want.shape
            grad = random(*want.shape, seed=2).float().to(device) if want.numel() else want.float()
            leaves = [t for t in (leaf, given) if t is not None]
            got_grads = torch.autograd.grad(got, leaves, grad)
            exacts = [t for t in (exact, shift) if t is not None]
            want_grads = torch.autograd.grad(want, exacts, grad.double())
            for g, w in zip((got, *got_grads), (want, *want_grads), strict=True):
                torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('device', DEVICES)
def test_same_input_gives_same_bits(device):
    x, bias = random(90, 32).bfloat16().to(device), random(32).to(device)
    grad = random(90, 16, seed=1).bfloat16().to(device)
    first, *others = [backward(grad, x, bias, 'silu', True) for _ in range(3)]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize('kind', FUNCTIONS)
@pytest.mark.parametrize('gated', [False, True])
def test_without_kernels_it_is_torchs_own(kind, gated):
    x, bias = random(3, 8).requires_grad_(), random(8, seed=1).requires_grad_()
    torch.testing.assert_close(
        activation(x, kind, bias, gated), truth(x, kind, bias, gated), rtol=1e-14, atol=0
    )
    assert torch.autograd.gradcheck(lambda *i: activation(i[0], kind, i[1], gated), (x, bias))
    assert FUNCTIONS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('with_bias', [False, True])
def test_operator_is_sound(with_bias, gated, device, kernels_everywhere):
    x, bias = random(4, 8).float().to(device), random(8).float().to(device)
    bias = bias.requires_grad_() if with_bias else None
    torch.library.opcheck(
        torch.ops.kat_mm.activation.default,
        (x.requires_grad_(), bias, 'gelu', gated),
        test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
    )


@pytest.mark.parametrize('device', DEVICES)
def test_a_second_derivative_is_refused_where_kernels_have_none(device, kernels_everywhere):
    x = random(4, 8).float().to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(activation(x, 'gelu').sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='activation is differentiable once'):
        gradient.sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize('gated', [False, True])
def test_a_compiled_program_gives_the_same_bits(gated):
    x, bias = (random(50, 64).bfloat16().cuda().requires_grad_(), random(64).float().cuda())
    bias.requires_grad_()

    def run(function):
        y = function(x, 'gelu', bias, gated)
        return y, *torch.autograd.grad(y, (x, bias), torch.ones_like(y))

    torch._dynamo.reset()
    compiled = torch.compile(activation, fullgraph=True)
    assert all(map(torch.equal, run(compiled), run(activation)))


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(kind='relu'), ["kind='relu'", 'gelu_tanh']),
        (dict(bias=torch.zeros(3)), ['bias is (3,)', 'must be (5,)']),
        (dict(gated=True), ['5 channels', 'gate and value']),
    ],
)
def test_wrong_value_is_refused_with_what_would_fit(arguments, words):
    with pytest.raises(ValueError) as raised:
        activation(torch.zeros(2, 5), **{'kind': 'gelu', **arguments})
    for word in words:
        assert word in str(raised.value)
