"""linear_rational: its node of the graph, its kernel and the plain composition, against float64."""

import sys

import pytest
import torch

from kat_mm.fits import get_fit
from kat_mm.ops import group_rational_eager as eager
from kat_mm.ops import linear_rational
from kat_mm.ops import linear_rational_triton as kernels

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
MODULE = sys.modules['kat_mm.ops.linear_rational']  # the function has its module's name
OPERATOR = MODULE._operator
# Relative to the norm: half of the last bit, and what the product before it was rounded by.
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def make(device, rows=(2, 5), channels=24, hidden=64, dtype=torch.float32, groups=8):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    fit = get_fit('swish')
    spread = torch.linspace(0.5, 1.5, groups)[:, None]  # so that a wrong group shows
    x, weight = normal(*rows, channels).to(dtype), (normal(hidden, channels) * channels**-0.5)
    tensors = x, weight.to(dtype), normal(hidden), torch.tensor([fit.numerator])
    return [t.to(device) for t in (*tensors, torch.tensor([fit.denominator]) * spread)]


def truth(x, weight, bias, numerator, denominator):
    return eager.forward(x @ weight.T + bias, numerator, denominator)


class Truth(torch.autograd.Function):
    """float64, by the formulas of the plain path."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs)
        return truth(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, numerator, denominator = ctx.saved_tensors
        grad_z, grad_a, grad_b, grad_bias = eager.backward(
            grad, x @ weight.T, numerator, denominator, bias
        )
        grad_weight = grad_z.flatten(0, -2).T @ x.flatten(0, -2)
        return grad_z @ weight, grad_weight, grad_bias, grad_a, grad_b


def node(*inputs):
    """The node itself, which runs under Triton's interpreter too."""
    return OPERATOR(*inputs, True)[0]


def leaves_of(tensors, dtype=None):
    return [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]


def compare(function, tensors, tolerance):
    leaves, wanted = leaves_of(tensors), leaves_of(tensors, torch.float64)
    got, want = function(*leaves), Truth.apply(*wanted)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(want.device)
    got_grads = torch.autograd.grad(got, leaves, grad.to(got.dtype))
    want_grads = torch.autograd.grad(want, wanted, grad.to(got.dtype).double())
    for g, w in zip((got, *got_grads), (want, *want_grads), strict=True):
        error = (g.double() - w).norm() / w.norm()
        assert error <= tolerance, (g.shape, error.item())
    for g, leaf in zip(got_grads, leaves, strict=True):
        assert g.dtype == leaf.dtype and g.shape == leaf.shape


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('function', [node, linear_rational])
def test_output_and_gradients_equal_float64(function, device):
    torch.backends.cuda.matmul.allow_tf32 = False
    compare(function, make(device), ROUNDING[torch.float32])


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_within_the_rounding_of_its_dtype(dtype):
    def autocast(*inputs):
        with torch.autocast('cuda', dtype):
            y = linear_rational(*inputs)
        assert y.dtype == dtype
        return y

    compare(autocast, make('cuda', (2, 197), 192, 768), 2 * ROUNDING[dtype])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('needed', [True, False])
def test_operators_keep_the_rules_of_torch_library(needed, device):
    tensors = make(device)
    for tensor in tensors:
        tensor.requires_grad_(needed)
    operator, backward = (
        getattr(torch.ops.kat_mm, f'linear_rational{suffix}').default
        for suffix in ('', '_backward')
    )
    torch.library.opcheck(operator, (*tensors, needed))
    with torch.no_grad():
        y, hidden = operator(*tensors, True)
        tensors = [t.detach() for t in tensors]
        torch.library.opcheck(backward, (torch.ones_like(y), *tensors, hidden, needed, needed))


@pytest.mark.parametrize('device', DEVICES)
def test_nothing_is_kept_without_a_gradient_and_none_is_given(device):
    x, *parameters = make(device)
    y, hidden = OPERATOR(x, *parameters, False)
    assert hidden.numel() == 0
    want, kept = OPERATOR(x, *parameters, True)
    assert torch.equal(y, want) and kept.shape == y.shape
    y, _ = OPERATOR(x.requires_grad_(), *parameters, False)
    with pytest.raises(RuntimeError, match='keep=True'):
        y.sum().backward()


@pytest.mark.parametrize(
    'index, shape, message',
    [(1, (64, 23), r'weight is \(64, 23\)'), (2, (63,), r'bias is \(63,\)'), (4, (7, 4), 'groups')],
)
def test_what_does_not_fit_is_refused(index, shape, message):
    tensors = make('cpu')
    tensors[index] = torch.ones(shape)
    with pytest.raises(ValueError, match=message):
        linear_rational(*tensors)


def check_kernel(device, rows, channels, hidden, groups, dtype, keep, tiling):
    x, weight, bias, a, b = make(device, (rows,), channels, hidden, dtype, groups)
    a = a * torch.linspace(0.8, 1.2, groups, device=device)[:, None]
    inputs = x, weight, bias, a, b, keep, tiling
    y, kept = kernels.forward(*inputs)
    want = x.double() @ weight.double().T
    if keep:
        assert (kept.double() - want).norm() <= ROUNDING[dtype] / 2 * want.norm()
        want = kept.double()  # what backward starts from is what the function was given
    else:
        assert kept.numel() == 0
        want = want.to(dtype).double()
    want = eager.forward(want + bias.double(), a.double(), b.double())
    assert (y.double() - want).norm() <= ROUNDING[dtype] / 2 * want.norm()
    again, kept_again = kernels.forward(*inputs)
    assert torch.equal(y, again) and torch.equal(kept, kept_again)


@pytest.mark.parametrize('descriptors', [True, False])
@pytest.mark.parametrize(
    'rows, channels, hidden, groups, keep',
    # Steps, tiles and rows that are not full; parts of one tile in two groups; a single row.
    [(37, 48, 192, 2, True), (33, 40, 96, 3, False), (1, 16, 128, 8, True)],
)
def test_kernel_equals_float64(rows, channels, hidden, groups, keep, descriptors):
    tiling = kernels.Tiling(32, 64, 32, 2, 4, 1, descriptors)
    # Triton's interpreter does not multiply bfloat16.
    check_kernel('cpu', rows, channels, hidden, groups, torch.float16, keep, tiling)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('rows', [1, 130, 17925])
@pytest.mark.parametrize('channels, hidden', kernels.CHOICE)
def test_chosen_tilings_equal_float64(channels, hidden, rows, keep, dtype):
    tiling = kernels.CHOICE[channels, hidden][0 if keep else 1]
    check_kernel('cuda', rows, channels, hidden, 8, dtype, keep, tiling)


@pytest.mark.gpu
@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('channels, hidden, groups', [(200, 320, 5), (8, 288, 3), (72, 1536, 1)])
def test_odd_sizes_equal_float64(channels, hidden, groups, keep):
    for tiling in {tiling for *tilings, _ in kernels.CHOICE.values() for tiling in tilings}:
        check_kernel('cuda', 333, channels, hidden, groups, torch.bfloat16, keep, tiling)


@pytest.mark.gpu
@pytest.mark.parametrize('channels, hidden', kernels.CHOICE)
def test_inference_holds_one_tensor_of_the_hidden_width(channels, hidden):
    x, *parameters = make('cuda', (50432,), channels, hidden, torch.bfloat16)
    with torch.no_grad():
        y = linear_rational(x, *parameters)  # compiles, and holds what it needs of memory
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        linear_rational(x, *parameters)
    assert torch.cuda.max_memory_allocated() - before < 1.1 * y.numel() * y.element_size()


@pytest.mark.gpu
def test_tensors_between_aligned_addresses_are_read():
    x, weight, bias, a, b = make('cuda', (50432,), 192, 768, torch.bfloat16)
    moved = torch.cat([weight.new_zeros(1), weight.flatten()])[1:].view_as(weight)
    with torch.no_grad():
        assert torch.equal(
            linear_rational(x, moved, bias, a, b), linear_rational(x, weight, bias, a, b)
        )


@pytest.mark.gpu
def test_what_was_not_measured_takes_the_plain_way():
    x, weight, bias, a, b = make('cuda', (50432,), 192, 768, torch.bfloat16)

    def chosen(x, weight, a, b):
        return kernels.tiling_for(x, weight, a, b, True) is not None

    assert chosen(x, weight, a, b)
    assert not chosen(x.float(), weight.float(), a, b)
    assert not chosen(x[:5], weight, a, b)
    assert not chosen(x, weight[:760], a, b)
    assert not chosen(x, weight, a.repeat(1, 3), b)  # degree 17, in float64
    assert not chosen(x, weight, a, b.repeat(6, 1))  # groups of 16 channels
