"""group_rational on the CPU, compared with the formula written out in float64."""

import pytest
import torch

from kat_mm.ops import group_rational
from kat_mm.ops import group_rational_triton as triton_backend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# (leading dimensions, channels, numerator groups, denominator groups)
SHAPES = [
    ((2, 197), 192, 1, 8),
    ((3, 7), 48, 8, 8),
    ((5,), 24, 24, 1),
    ((9, 41), 30, 2, 3),  # groups that do not nest
    ((), 16, 1, 8),  # a vector
    ((1,), 8, 8, 8),  # one row, one channel per group
    ((2, 3, 5, 7), 40, 1, 40),
    ((0, 4), 16, 1, 8),  # empty batch
    ((300,), 272, 1, 2),  # width 136, not a power of two
]
ORDERS = [(5, 4), (3, 2), (0, 0), (2, 0), (1, 6)]


def formula(x, numerator, denominator):
    """FACTS of the function, channel by channel, in the inputs' own dtype."""
    columns = []
    channels = x.shape[-1]
    for c in range(channels):
        a = numerator[c // (channels // len(numerator))]
        b = denominator[c // (channels // len(denominator))]
        z = x[..., c]
        p = sum(a[i] * z**i for i in range(len(a)))
        # sign(0) = +1: b * sign is |b| with the gradient that the definition asks for.
        q = 1 + sum(
            b[j] * torch.where(b[j] < 0, -1.0, 1.0) * z.abs() ** (j + 1) for j in range(len(b))
        )
        columns.append(p / q)
    return torch.stack(columns, dim=-1)


def make(shape, channels, groups, order, dtype=torch.float64, device='cpu', seed=0):
    generator = torch.Generator().manual_seed(seed)
    numerator_groups, denominator_groups = groups
    x = torch.randn(*shape, channels, generator=generator, dtype=torch.float64) * 2
    a = torch.randn(numerator_groups, order[0] + 1, generator=generator, dtype=torch.float64)
    b = torch.randn(denominator_groups, order[1], generator=generator, dtype=torch.float64)
    if b.numel():
        b[0, 0] = 0  # the identity starts here
    # Rounded once, so that low precision is compared for its arithmetic and not for its input.
    x, grad = x.to(dtype), torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
    coefficient_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = a.to(coefficient_dtype), b.to(coefficient_dtype)
    return tuple(t.to(device) for t in (x, a, b, grad))


def truth(x, a, b, grad):
    """Output and gradients of the formula in float64, by autograd."""
    x, a, b, grad = (t.detach().cpu().double() for t in (x, a, b, grad))
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    y = formula(*leaves)
    if not y.numel():
        return y.detach(), *(torch.zeros_like(t) for t in leaves)
    gradients = torch.autograd.grad(y, leaves, grad, allow_unused=True)
    return y.detach(), *(
        torch.zeros_like(t) if g is None else g for g, t in zip(gradients, leaves, strict=True)
    )


def run(function, x, a, b, grad):
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def run_triton(x, a, b, grad):
    return triton_backend.forward(x, a, b), *triton_backend.backward(grad, x, a, b)


TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
}


def assert_close(got, want, dtype):
    names = ('output', 'grad of x', 'grad of numerator', 'grad of denominator')
    for index, (name, g, w) in enumerate(zip(names, got, want, strict=True)):
        assert g.shape == w.shape, name
        if not w.numel():
            continue
        # Coefficients keep float32, whatever the dtype of x.
        tolerance = TOLERANCE[dtype] if index < 2 else min(TOLERANCE[dtype], 1e-5)
        error = (g.cpu().double() - w).norm() / w.norm().clamp(min=1e-30)
        assert error <= tolerance, f'{name}: relative error {error:.2e}'


@pytest.mark.parametrize('shape, channels, gn, gd', SHAPES)
@pytest.mark.parametrize('order', ORDERS)
def test_operator_equals_the_formula_in_float64(shape, channels, gn, gd, order):
    inputs = make(shape, channels, (gn, gd), order)
    assert_close(run(group_rational, *inputs), truth(*inputs), torch.float64)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape, channels, gn, gd', SHAPES)
def test_operator_equals_the_formula_in_each_dtype(shape, channels, gn, gd, dtype, device):
    inputs = make(shape, channels, (gn, gd), (5, 4), dtype, device)
    got = run(group_rational, *inputs)
    assert got[0].dtype == got[1].dtype == dtype
    assert got[2].dtype == inputs[1].dtype
    assert_close(got, truth(*inputs), dtype)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape, channels, gn, gd', SHAPES)
def test_triton_kernels_equal_the_formula(shape, channels, gn, gd, dtype, device):

    inputs = make(shape, channels, (gn, gd), (5, 4), dtype, device)
    assert_close(run_triton(*inputs), truth(*inputs), dtype)
