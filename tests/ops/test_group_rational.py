"""group_rational on the CPU, compared with the formula written out in float64."""

from fractions import Fraction

import pytest
import torch

from kat_mm.fits import available_fits, get_fit
from kat_mm.fits.fitter import fit_rational
from kat_mm.ops import group_rational
from kat_mm.ops import group_rational_triton as triton_backend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# (leading dimensions, channels, numerator groups, denominator groups)
SHAPES = [
    ((2, 7), 192, 1, 8),
    ((3, 7), 48, 8, 8),
    ((5,), 24, 24, 1),
    ((3, 4), 30, 2, 3),  # groups that do not nest
    ((), 16, 1, 8),  # a vector
    ((1,), 8, 8, 8),  # one row, one channel per group
    ((2, 1, 3, 2), 40, 1, 40),
    ((0, 4), 16, 1, 8),  # empty batch
    ((2, 3), 0, 1, 2),  # no channels
    ((0,), 0, 1, 1),
    ((9,), 34, 1, 2),  # 17 channels per group
]
# For the kernels: the interpreter takes 50 ms for each tile.
TRITON_SHAPES = [
    *SHAPES[1:],
    ((70,), 34, 1, 2),  # several programs of several row tiles, with a remainder
    ((9,), 136, 1, 1),  # a group of more than one column tile, the last one not full
    ((20,), 96, 2, 3),  # tiles of one cell, in groups that do not nest
    ((3,), 130, 1, 65),  # several column tiles of several cells, the last one not full
]
GPU_SHAPES = [((2, 197), 192, 1, 8), ((128, 197), 768, 1, 8), ((9, 41), 3072, 8, 8)]
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
        magnitude = z * torch.where(z < 0, -1.0, 1.0)
        q = 1 + sum(
            b[j] * torch.where(b[j] < 0, -1.0, 1.0) * magnitude ** (j + 1) for j in range(len(b))
        )
        columns.append(p / q)
    return torch.stack(columns, dim=-1) if columns else x.clone()


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


def packaged(name, groups=1, dtype=torch.float32):
    fit = get_fit(name)
    return (
        torch.tensor([fit.numerator] * groups, dtype=dtype),
        torch.tensor([fit.denominator] * groups, dtype=dtype),
    )


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
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, a, b)]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def run_triton(x, a, b, grad):
    return triton_backend.forward(x, a, b), *triton_backend.backward(grad, x, a, b)[:3]


BACKENDS = {
    'operator': lambda *inputs: run(group_rational, *inputs),
    'kernels': run_triton,
}

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
}


# Triton's interpreter cuts bfloat16 off where a GPU rounds it.
INTERPRETER_TOLERANCE = {**TOLERANCE, torch.bfloat16: 8e-3}
KERNEL_TOLERANCE = TOLERANCE if torch.cuda.is_available() else INTERPRETER_TOLERANCE


def assert_close(got, want, dtype, tolerances=TOLERANCE):
    names = ('output', 'grad of x', 'grad of numerator', 'grad of denominator')
    for index, (name, g, w) in enumerate(zip(names, got, want, strict=True)):
        assert g.shape == w.shape, name
        if not w.numel():
            continue
        # Coefficients keep float32 whatever the dtype of x, and terms of their sums cancel.
        sums = 1e-12 if dtype == torch.float64 else 1e-5
        tolerance = tolerances[dtype] if index < 2 else sums
        error = (g.cpu().double() - w).norm() / w.norm().clamp(min=1e-30)
        assert error <= tolerance, f'{name}: relative error {error:.2e}'


@pytest.fixture
def short_programs(monkeypatch):
    """Programs of few row tiles, so that a small input fills several of them."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(triton_backend, '_LOOPS', 2)


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
@pytest.mark.parametrize('shape, channels, gn, gd', TRITON_SHAPES)
def test_triton_kernels_equal_the_formula(shape, channels, gn, gd, dtype, device, short_programs):
    inputs = make(shape, channels, (gn, gd), (5, 4), dtype, device)
    assert_close(run_triton(*inputs), truth(*inputs), dtype, KERNEL_TOLERANCE)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('order', ORDERS[1:])
@pytest.mark.parametrize('shape, channels, gn, gd', [((3,), 6, 2, 3), ((3,), 32, 1, 2)])
def test_triton_kernels_take_any_order(shape, channels, gn, gd, order, device, short_programs):
    inputs = make(shape, channels, (gn, gd), order, torch.float32, device)
    assert_close(run_triton(*inputs), truth(*inputs), torch.float32)


def test_triton_programs_of_full_length_add_up_all_rows():
    # One program takes 2048 rows of 4 channels.
    inputs = make((2060,), 4, (1, 1), (5, 4), torch.float32)
    assert_close(run_triton(*inputs), truth(*inputs), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape, channels, gn, gd', GPU_SHAPES)
def test_triton_kernels_equal_the_eager_function_on_real_shapes(shape, channels, gn, gd, dtype):
    inputs = make(shape, channels, (gn, gd), (5, 4), dtype)
    want = run(group_rational, *(t.double() for t in inputs))
    assert_close(run_triton(*(t.cuda() for t in inputs)), want, dtype)


def strided(kind):
    """(x, grad) of (6, 5, 16) in other memory layouts, in float32."""
    generator = torch.Generator().manual_seed(1)
    full = torch.randn(2, 12, 10, 34, generator=generator)
    return {
        'transposed': full[:, :5, :6, :16].transpose(1, 2),
        'channels first': full[:, :6, :5, :16].movedim(-1, 1).contiguous().movedim(1, -1),
        'sliced rows': full[:, ::2, :5, :16],
        'sliced channels': full[:, :6, :5, 1:33:2],
        'unaligned': full[:, :6, :5, 3:19],
        'expanded': full[:, :6, :1, :16].expand(2, 6, 5, 16),
        'one number': torch.ones(()).expand(2, 6, 5, 16),
    }[kind].unbind()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    'kind',
    [
        'transposed',
        'channels first',
        'sliced rows',
        'sliced channels',
        'unaligned',
        'expanded',
        'one number',
    ],
)
def test_strides_of_input_and_gradient_make_no_difference(kind, backend, device, short_programs):
    x, grad = (t.to(device) for t in strided(kind))
    assert device == 'cuda' or kind == 'unaligned' or not x.is_contiguous()
    _, a, b, _ = make((), 16, (1, 2), (5, 4), torch.float32, device)
    wide_a, wide_b = a.repeat_interleave(2, 1)[:, ::2], b.T.contiguous().T
    got = BACKENDS[backend](x, wide_a, wide_b, grad)
    want = BACKENDS[backend](x.contiguous(), a, b, grad.contiguous())
    assert got[0].is_contiguous()
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)


def planes(shape, channels, dtype, device):
    """As ``make``, with x and grad of (B, ..., C) that lie in memory as (B, C, ...)."""
    x, a, b, grad = make(shape, channels, (1, 2), (5, 4), dtype, device)
    x, grad = (t.movedim(-1, 1).contiguous().movedim(1, -1) for t in (x, grad))
    return x, a, b, grad


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape, channels', [((2, 5, 7), 6), ((3, 8, 8), 4), ((2, 37), 34)])
def test_planes_are_read_and_written_as_they_lie(
    shape, channels, dtype, backend, device, short_programs
):
    inputs = x, *_ = planes(shape, channels, dtype, device)
    got = BACKENDS[backend](*inputs)
    assert_close(got, truth(*inputs), dtype, KERNEL_TOLERANCE)
    assert got[0].stride() == got[1].stride() == x.stride()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_channels_first_is_the_same_function_in_the_same_layout(memory_format, device):
    x, a, b, grad = make((2, 4, 6), 8, (2, 4), (5, 4), torch.float64, device)
    first = x.movedim(-1, 1).contiguous(memory_format=memory_format).requires_grad_()
    y = group_rational(first, a, b, channels_first=True)
    assert y.is_contiguous(memory_format=memory_format)
    (got,) = torch.autograd.grad(y, first, grad.movedim(-1, 1))
    want = truth(x, a, b, grad)
    torch.testing.assert_close(y.movedim(1, -1).cpu(), want[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.movedim(1, -1).cpu(), want[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('layout', ['rows', 'planes'])
@pytest.mark.parametrize('backend', ['operator', 'kernels'])
def test_bias_is_added_before_and_its_gradient_is_that_of_x_summed(
    dtype, layout, backend, device, short_programs
):
    if layout == 'rows':
        x, a, b, grad = make((11, 3), 24, (1, 2), (5, 4), dtype, device)
    else:
        x, a, b, grad = planes((3, 4, 5), 24, dtype, device)
    bias = torch.randn(24, generator=torch.Generator().manual_seed(5)).to(a)
    if backend == 'operator':
        leaves = [
            t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, a, b, bias)
        ]
        y = group_rational(*leaves)
        got = y.detach(), *torch.autograd.grad(y, leaves, grad)
    else:
        y = triton_backend.forward(x, a, b, bias)
        got = y, *triton_backend.backward(grad, x, a, b, bias)
    want = truth(x.double() + bias.double(), a, b, grad)
    assert_close(got[:4], want, dtype, KERNEL_TOLERANCE)
    if backend == 'kernels':
        strided = bias.repeat_interleave(2)[::2]
        assert torch.equal(triton_backend.forward(x, a, b, strided), got[0])
    want_bias = want[1].flatten(0, -2).sum(0)
    assert got[4].dtype == bias.dtype
    torch.testing.assert_close(
        got[4].cpu().double(), want_bias, rtol=1e-10 if dtype == torch.float64 else 1e-5, atol=1e-5
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    'x_dtype, a_dtype, b_dtype',
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float64),
        (torch.float32, torch.float64, torch.float32),
    ],
)
def test_dtypes_may_be_mixed_and_gradients_keep_those_of_their_inputs(
    x_dtype, a_dtype, b_dtype, backend, device, short_programs
):
    x, a, b, grad = make((5,), 24, (1, 8), (5, 4), torch.float32, device)
    inputs = x.to(x_dtype), a.to(a_dtype), b.to(b_dtype), grad.to(x_dtype)
    got = BACKENDS[backend](*inputs)
    assert [t.dtype for t in got] == [x_dtype, x_dtype, a_dtype, b_dtype]
    for g, w in zip(got, truth(*inputs), strict=True):
        torch.testing.assert_close(
            g.cpu().double(),
            w,
            rtol=2 * torch.finfo(g.dtype).eps,
            atol=1e-3 if g.dtype.itemsize == 2 else 1e-5,
        )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('with_bias', [False, True])
def test_both_operators_keep_the_rules_of_torch_library(device, dtype, with_bias):
    x, a, b, grad = make((3, 5), 24, (2, 8), (5, 4), dtype, device)
    bias = a.new_ones(24) if with_bias else None
    leaves = [t if t is None else t.requires_grad_() for t in (x, a, b, bias)]
    torch.library.opcheck(torch.ops.kat_mm.group_rational.default, leaves)
    torch.library.opcheck(
        torch.ops.kat_mm.group_rational_backward.default,
        (grad, *(t if t is None else t.detach() for t in leaves)),
    )


def test_opcheck_passes_for_strided_coefficients():
    x, a, b, grad = make((3,), 24, (2, 8), (5, 4))
    inputs = x, a.T.contiguous().T, b.T.contiguous().T, None
    torch.library.opcheck(torch.ops.kat_mm.group_rational.default, inputs)
    torch.library.opcheck(torch.ops.kat_mm.group_rational_backward.default, (grad, *inputs))


@pytest.mark.parametrize('order', ORDERS)
def test_gradients_equal_finite_differences(order):
    x, a, b, _ = make((2, 2), 12, (2, 3), order)
    # Both |x| and |b| have a kink at 0.
    x, b = (torch.where(t.abs() < 0.1, 0.5, t) for t in (x, b))
    assert torch.autograd.gradcheck(group_rational, [t.requires_grad_() for t in (x, a, b)])


def test_second_derivatives_are_refused_and_not_wrong():
    x, a, b, _ = make((2,), 8, (1, 8), (5, 4))
    x.requires_grad_()
    (grad,) = torch.autograd.grad(group_rational(x, a, b).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='twice'):
        grad.sum().backward()
    # The registered operator says so too.
    y = torch.ops.kat_mm.group_rational(x, a, b, None)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='twice'):
        grad.sum().backward()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_compiled_without_graph_breaks_gives_the_eager_numbers(backend, device):
    inputs = make((3, 5), 24, (1, 8), (5, 4), torch.float32, device)

    def function(x, a, b):
        if backend == 'inductor' and device == 'cpu':
            return group_rational(x, a, b)  # other operations cost a minute of C++ compiler
        return group_rational(x * 2, a, b).sin()

    torch._dynamo.reset()
    got = run(torch.compile(function, fullgraph=True, backend=backend), *inputs)
    for g, w in zip(got, run(function, *inputs), strict=True):
        torch.testing.assert_close(g, w)


def test_exported_program_holds_the_operator_and_gives_the_eager_numbers():
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(t) for t in packaged('gelu', 8))

        def forward(self, x):
            return group_rational(x, self.a, self.b)

    module, batch = Module(), torch.export.Dim('batch')
    x = make((3,), 24, (1, 8), (5, 4), torch.float32)[0]
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    assert 'kat_mm.group_rational' in program.graph_module.code
    other = torch.cat([x, -x])
    assert torch.equal(program.module()(other), module(other))


@pytest.mark.parametrize('device', DEVICES)
def test_autocast_keeps_the_dtype_of_x_and_coefficients_in_float32(device):
    a, b = (t.to(device).requires_grad_() for t in packaged('swish', 8))
    linear = torch.nn.Linear(16, 24, device=device)
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.autocast(device, torch.bfloat16):
        hidden = linear(x)
        y = group_rational(hidden, a, b)
    y.sum().backward()
    assert hidden.dtype == y.dtype == torch.bfloat16
    assert a.grad.dtype == b.grad.dtype == linear.weight.grad.dtype == torch.float32
    want = truth(hidden, a, b, torch.ones_like(y))
    assert_close((y, want[1], a.grad, b.grad), want, torch.bfloat16)


def test_only_the_inputs_are_saved_for_backward():
    x, a, b, _ = make((3, 5), 24, (1, 8), (5, 4), torch.bfloat16)
    leaves = [t.requires_grad_() for t in (x, a, b)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        group_rational(*leaves)
    assert [t.data_ptr() for t in saved] == [t.data_ptr() for t in leaves]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_denominators_that_start_at_zero_can_learn(backend, device):
    x, _, _, grad = make((4,), 16, (1, 8), (5, 4), torch.float32, device)
    a, b = (t.to(device) for t in packaged('identity', 8))
    *_, grad_b = BACKENDS[backend](x, a, b, grad)
    # dF/db_j = -|x|^j x where F(x) = x and sign(0) = +1
    powers = torch.arange(1, 5, device=device)
    terms = -grad[..., None] * x[..., None] * x[..., None].abs() ** powers
    want = terms.sum(0).view(8, 2, 4).sum(1)
    assert (want != 0).all()
    torch.testing.assert_close(grad_b, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_gradient_at_zero_is_the_one_from_the_right(backend, device):
    a, b = torch.tensor([[3.0, 5.0]], device=device), torch.tensor([[-2.0]], device=device)
    x, grad = torch.zeros(1, 1, device=device), torch.ones(1, 1, device=device)
    y, grad_x, _, _ = BACKENDS[backend](x, a, b, grad)
    # dF/dx = a1 - a0 |b1| sign(x)
    assert (y.item(), grad_x.item()) == (3.0, 5.0 - 3.0 * 2.0)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', available_fits())
def test_packaged_fits_are_finite_over_all_of_float16(name, backend, device):
    a, b = (t.to(device) for t in packaged(name))
    values = [65504, 60000, 3e4, 1e3, 10, 1, 1e-7, 0]
    # Not v and -v: their contributions to a coefficient's gradient would cancel to rounding errors.
    x = torch.tensor([[v, -v / 2] for v in values], dtype=torch.float16, device=device)
    got = BACKENDS[backend](x, a, b, torch.ones_like(x))
    want = truth(x, a, b, torch.ones_like(x))
    for g, w in zip(got, want, strict=True):
        assert g.isfinite().all()
        torch.testing.assert_close(g.cpu().double(), w, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_powers_beyond_the_range_of_float32(dtype, backend, device):
    if (dtype, backend, device) == (torch.bfloat16, 'kernels', 'cpu'):
        pytest.skip("Triton's interpreter does not convert float64 to bfloat16")
    fit = fit_rational('swish', order=(12, 12))
    a = torch.tensor([fit.numerator], device=device)
    b = torch.tensor([fit.denominator], device=device)
    x = torch.tensor([[60000.0, -30000.0, 3.0]], dtype=dtype, device=device).mT
    got = BACKENDS[backend](x, a, b, torch.ones_like(x))
    want = truth(x, a, b, torch.ones_like(x))
    for g, w in zip(got, want, strict=True):
        tolerance = 1e-2 if g.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(g.cpu().double(), w, rtol=tolerance, atol=0)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('order', [(5, 4), (0, 2), (0, 0), (1, 3)])
def test_infinite_or_undefined_input_shows_in_the_output_of_its_own_element(
    order, value, backend, device
):
    x, a, b, grad = make((2,), 4, (1, 1), order, torch.float32, device)
    x[1, 2] = value
    y = BACKENDS[backend](x, a, b, grad)[0]
    expected = torch.ones(2, 4, dtype=torch.bool)
    expected[1, 2] = False
    assert torch.equal(y.isfinite().cpu(), expected)


def exact(x, a, b):
    """F, its derivative, and its shares in the gradients of a and b, in rational numbers."""
    x, *c = (Fraction(float(v)) for v in (x, *a[0], *b[0]))
    a, b = c[: a.shape[1]], [abs(v) for v in c[a.shape[1] :]]
    signs = [-1 if v < 0 else 1 for v in c[len(a) :]]
    sign = -1 if x < 0 else 1
    p = sum(v * x**i for i, v in enumerate(a))
    q = 1 + sum(v * abs(x) ** j for j, v in enumerate(b, 1))
    dp = sum(i * v * x ** (i - 1) for i, v in enumerate(a) if i)
    dq = sign * sum(j * v * abs(x) ** (j - 1) for j, v in enumerate(b, 1))
    return (
        [p / q],
        [dp / q - p * dq / q**2],
        [x**i / q for i in range(len(a))],
        [-s * p * abs(x) ** j / q**2 for j, s in enumerate(signs, 1)],
    )


# dtype of x and of the coefficients, the largest |x|, and precision.
EDGES = {
    'float16': (torch.float16, torch.float32, 65504, 1e-3),
    'bfloat16': (torch.bfloat16, torch.float32, 2e7, 1e-2),
    'float32': (torch.float32, torch.float32, 2e7, 1e-5),
    'float64': (torch.float64, torch.float64, 2e61, 1e-12),
}


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('edge', EDGES)
def test_results_are_finite_and_right_at_the_stated_edges(edge, backend, device):
    dtype, coefficient_dtype, most, precision = EDGES[edge]
    # A channel with coefficients of its own for each packaged fit and each sign of x.
    fits = [packaged(name, 2, coefficient_dtype) for name in available_fits()]
    a, b = (torch.cat(parts).to(device) for parts in zip(*fits, strict=True))
    x = torch.tensor([[most, -most] * len(fits)], dtype=dtype, device=device)
    got = BACKENDS[backend](x, a, b, torch.ones_like(x))
    for channel in range(x.shape[1]):
        own = x[:, channel], a[channel : channel + 1], b[channel : channel + 1]
        results = got[0][:, channel], got[1][:, channel], got[2][channel], got[3][channel]
        for result, want in zip(results, exact(*own), strict=True):
            assert result.isfinite().all()
            want = torch.tensor([float(v) for v in want], dtype=torch.float64)
            # A derivative that vanishes is a difference of two that are about 1.
            torch.testing.assert_close(result.cpu().double(), want, rtol=precision, atol=precision)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype, beyond', [(torch.float32, 1e9), (torch.float64, 1e63)])
def test_beyond_the_edges_overflow_shows(dtype, beyond, backend, device):
    a, b = (t.to(device) for t in packaged('gelu', dtype=dtype))
    x = torch.full((1, 1), beyond, dtype=dtype, device=device)
    assert not BACKENDS[backend](x, a, b, torch.ones_like(x))[0].isfinite()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('order', [(5, 4), (2, 0)])
def test_infinite_or_undefined_input_shows_in_its_own_gradients_alone(order, backend, device):
    x, a, b, grad = make((2,), 8, (4, 4), order, torch.float32, device)
    want = BACKENDS[backend](x, a, b, grad)
    # One in each group but the first.
    own = torch.zeros(2, 8, dtype=torch.bool, device=device)
    own[1, 2::2] = True
    x[own] = torch.tensor([float('nan'), float('inf'), -float('inf')], device=device)
    got = BACKENDS[backend](x, a, b, grad)
    for g, w in zip(got[:2], want[:2], strict=True):
        assert g[own].isnan().all()
        assert torch.equal(g[~own], w[~own])
    for g, w, first in zip(got[2:], want[2:], (1, 0), strict=True):
        assert torch.equal(g[0], w[0])
        assert not g[1:, first:].isfinite().any()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_same_input_gives_the_same_bits(backend, device, short_programs):
    inputs = make((50,), 24, (1, 8), (5, 4), torch.bfloat16, device)
    first, second = (BACKENDS[backend](*inputs) for _ in range(2))
    for f, s in zip(first, second, strict=True):
        assert torch.equal(f, s)


@pytest.mark.parametrize('transform', ['grad', 'jvp', 'jvp of vmap'])
def test_derivatives_by_torch_func_are_refused_and_not_zero(transform):
    x, a, b, _ = make((2,), 4, (1, 1), (5, 4), torch.float32)

    def function(x):
        return group_rational(x, a, b)

    with pytest.raises(NotImplementedError, match='torch.func'):
        if transform == 'grad':
            torch.func.grad(lambda x: function(x).sum())(x)
        else:
            mapped = torch.func.vmap(function) if 'vmap' in transform else function
            torch.func.jvp(mapped, (x,), (torch.ones_like(x),))


A, B = torch.zeros(1, 6), torch.zeros(8, 4)


@pytest.mark.parametrize(
    'inputs, error, words',
    [
        ((torch.zeros(3, 20), A, B), ValueError, ['20 channels', '8 groups', 'denominator']),
        ((torch.zeros(3, 16), A.repeat(3, 1), B), ValueError, ['16', '3 groups', 'numerator']),
        ((torch.zeros(3, 16), A[:0], B), ValueError, ['0 groups', 'numerator']),
        ((torch.zeros(3, 16), A[:, :0], B), ValueError, ['numerator', 'a0']),
        ((torch.zeros(3, 16), A[0], B), ValueError, ['numerator', '(6,)', 'two dimensions']),
        ((torch.zeros(3, 16), A, B[None]), ValueError, ['denominator', '(1, 8, 4)']),
        ((torch.zeros(()), A, B), ValueError, ['scalar', '(..., C)']),
        ((torch.zeros(3, 16, dtype=torch.int64), A, B), TypeError, ['x', 'torch.int64']),
        ((torch.zeros(3, 16), A, B.cfloat()), TypeError, ['denominator', 'torch.complex64']),
        ((torch.zeros(3, 16), A.to('meta'), B), ValueError, ['numerator', 'meta', 'cpu']),
    ],
)
def test_input_that_does_not_fit_is_refused_with_its_name_and_value(inputs, error, words):
    with pytest.raises(error) as raised:
        group_rational(*inputs)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.gpu
def test_kernels_run_on_the_device_of_the_tensor():
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    inputs = make((9, 41), 30, (2, 3), (5, 4), torch.float32, 'cuda:1')
    assert torch.cuda.current_device() == 0
    got = run(group_rational, *inputs)
    assert {t.device for t in got} == {torch.device('cuda:1')}
    assert_close(got, truth(*inputs), torch.float32)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements_are_addressed():
    channels, rows = 3072, 2**31 // 3072 + 1000
    if torch.cuda.mem_get_info()[0] < 5 * rows * channels * 2:
        pytest.skip('needs 21 GB of free GPU memory')
    a, b = (t.cuda() for t in packaged('gelu', 8))
    x = torch.zeros(rows, channels, dtype=torch.bfloat16, device='cuda')
    tail = torch.randn(1000, channels, generator=torch.Generator().manual_seed(0)).bfloat16().cuda()
    x[-1000:] = tail
    grad = torch.zeros_like(x)
    grad[-1000:] = 1
    got = run_triton(x, a[:1], b, grad)
    want = run_triton(tail, a[:1], b, torch.ones_like(tail))
    assert torch.equal(got[0][-1000:], want[0])
    assert torch.equal(got[1][-1000:], want[1])
    # The rows before have no gradient; only the order of the sums differs.
    torch.testing.assert_close(got[2:], want[2:], rtol=1e-4, atol=1e-2)
