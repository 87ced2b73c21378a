"""add_layer_norm: the fused kernels and the plain path, compared with float64."""

import pytest
import torch
import torch.nn.functional as F

from kat_mm.fits import get_fit
from kat_mm.ops import add_layer_norm, group_rational
from kat_mm.ops import add_layer_norm_triton as kernels

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
EPS = 1e-6
# Triton's interpreter cuts bfloat16 off where a GPU rounds it.
TOLERANCE = {
    torch.float32: 2e-6,
    torch.bfloat16: 4e-3 if torch.cuda.is_available() else 8e-3,
    torch.float16: 6e-4,
}


def make(
    shape=(3, 5),
    channels=24,
    branch=True,
    branch_bias=True,
    scale=True,
    act=True,
    x_dtype=torch.float32,
    dtype=torch.float32,
    device='cpu',
    seed=0,
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size, dtype=torch.float32):
        return torch.randn(*size, generator=generator).to(device, dtype)

    fit = get_fit('gelu')
    values = dict(
        x=normal(*shape, channels, dtype=x_dtype) * 3 + 1,
        weight=normal(channels) + 1,
        bias=normal(channels),
        branch=normal(*shape, channels, dtype=dtype) if branch else None,
        branch_bias=normal(channels) if branch and branch_bias else None,
        scale=torch.tensor([0.0, 1.25, 1.25])[: shape[0]].to(device) if scale else None,
        numerator=torch.tensor([fit.numerator] * 2).to(device) if act else None,
        denominator=torch.tensor([fit.denominator] * 4).to(device) if act else None,
    )
    grads = normal(*shape, channels), normal(*shape, channels, dtype=dtype)
    return values, grads


def truth(x, weight, bias, branch, branch_bias, scale, numerator, denominator):
    """Spelled out, in the inputs' own dtype."""
    if branch is not None:
        branch = branch if branch_bias is None else branch + branch_bias
        x = x + (branch if scale is None else branch * scale[:, None, None])
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * weight + bias
    return x, y if numerator is None else group_rational(y, numerator, denominator)


def gradients(function, values, grads):
    leaves = {
        name: v.detach().clone().requires_grad_(name != 'scale')
        for name, v in values.items()
        if v is not None
    }
    total, y = function(**{**dict.fromkeys(values), **leaves})
    wanted = {name: v for name, v in leaves.items() if v.requires_grad}
    if total.requires_grad and total is not leaves['x']:
        outputs, incoming = (total, y), (grads[0].to(total.dtype), grads[1].to(y.dtype))
    else:
        outputs, incoming = (y,), (grads[1].to(y.dtype),)
    gradients = torch.autograd.grad(outputs, [*wanted.values()], incoming)
    return total, y, dict(zip(wanted, gradients, strict=True))


def fused(x, weight, bias, branch, branch_bias, scale, numerator, denominator, dtype=None):
    """The kernels, under the interpreter too."""
    dtype = dtype or (x if branch is None else branch).dtype
    total, y, _ = torch.ops.kat_mm.add_layer_norm(
        x, branch, branch_bias, scale, weight, bias, numerator, denominator, EPS, dtype
    )
    return (x if branch is None else total), y


def plain(x, weight, bias, **others):
    return add_layer_norm(x, weight, bias, EPS, **others)


def compare(function, values, grads, tolerance):
    got = gradients(function, values, grads)
    doubles = {k: v if v is None else v.double().cpu() for k, v in values.items()}
    want = gradients(truth, doubles, [g.double().cpu() for g in grads])
    for name, g, w in (
        ('total', got[0], want[0]),
        ('y', got[1], want[1]),
        *((name, got[2][name], want[2][name]) for name in want[2]),
    ):
        assert g.shape == w.shape, name
        # Weights and coefficients are float32, but see what y and branch were rounded to.
        error = (g.cpu().double() - w).norm() / w.norm().clamp(min=1e-30)
        assert error <= tolerance, f'{name}: relative error {error:.2e}'
    for name, gradient in got[2].items():
        assert gradient.dtype == values[name].dtype, name


CASES = [
    dict(),
    dict(act=False),
    dict(scale=False),
    dict(branch_bias=False),
    dict(branch=False, scale=False),
    dict(branch=False, scale=False, act=False),
    dict(channels=40, shape=(1, 7)),  # slots that do not fill the tile
    dict(channels=12, shape=(3, 2)),  # three channels in a group: lanes of one
    dict(channels=192, shape=(2, 3)),
]


@pytest.fixture
def short_programs(monkeypatch):
    """Programs of few tiles, so that a small input fills several of them."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(kernels, '_FORWARD_LOOPS', 2)
        monkeypatch.setattr(kernels, '_BACKWARD_LOOPS', 2)


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('device', DEVICES)
def test_kernels_equal_float64(case, device, short_programs):
    compare(fused, *make(**case, device=device), TOLERANCE[torch.float32])


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('device', DEVICES)
def test_function_equals_float64(case, device):
    compare(plain, *make(**case, device=device), TOLERANCE[torch.float32])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'x_dtype, dtype',
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
    ],
)
def test_kernels_take_mixed_dtypes(x_dtype, dtype, device, short_programs):
    values, grads = make(x_dtype=x_dtype, dtype=dtype, device=device)
    compare(fused, values, grads, 2 * max(TOLERANCE[x_dtype], TOLERANCE[dtype]))
    total, y = fused(**values)
    assert total.dtype == torch.promote_types(x_dtype, dtype)
    assert y.dtype == dtype


@pytest.mark.parametrize('device', DEVICES)
def test_more_rows_than_a_program_takes(device, short_programs):
    # Rows of 24 channels: a tile has 32 of them.
    compare(fused, *make(shape=(3, 50), device=device), 5e-6)


@pytest.mark.parametrize('device', DEVICES)
def test_large_mean_costs_no_accuracy(device, short_programs):
    values, grads = make(act=False, device=device)
    values['x'] = values['x'] + 1000
    compare(fused, values, grads, 2e-4)  # 1000 has 6e-5 units in float32


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('case', CASES[:6], ids=str)
def test_operators_keep_the_rules_of_torch_library(case, device):
    values, grads = make(**case, device=device)
    v = {k: t if t is None else t.requires_grad_(k != 'scale') for k, t in values.items()}
    inputs = (
        v['x'],
        v['branch'],
        v['branch_bias'],
        v['scale'],
        v['weight'],
        v['bias'],
        v['numerator'],
        v['denominator'],
        EPS,
        torch.bfloat16,
    )
    torch.library.opcheck(torch.ops.kat_mm.add_layer_norm.default, inputs)
    with torch.no_grad():
        total, y, statistics = torch.ops.kat_mm.add_layer_norm(*inputs)
        has_branch = v['branch'] is not None
        torch.library.opcheck(
            torch.ops.kat_mm.add_layer_norm_backward.default,
            (
                grads[0] if has_branch else None,
                grads[1],
                total if has_branch else v['x'].detach(),
                statistics,
                *(t if t is None else t.detach() for t in inputs[4:8]),
                v['scale'],
                torch.bfloat16 if has_branch else None,
                v['branch_bias'] is not None,
            ),
        )


@pytest.mark.parametrize('device', DEVICES)
def test_same_input_gives_the_same_bits(device, short_programs):
    values, grads = make(shape=(3, 50), device=device)
    first, second = (gradients(fused, values, grads) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(first[2][name], second[2][name]) for name in first[2])


@pytest.mark.parametrize('device', DEVICES)
def test_scales_of_other_dtypes_follow_each_other(device, short_programs):
    for dtype in (torch.float32, torch.float64, torch.float16):
        values, grads = make(device=device)
        values['scale'] = values['scale'].to(dtype)  # 0 and 1.25, exact in all of them
        compare(fused, values, grads, TOLERANCE[torch.float32])


@pytest.mark.gpu
def test_autocast_chooses_the_dtype_of_the_result_on_a_gpu():
    values, _ = make(device='cuda')
    with torch.autocast('cuda', torch.bfloat16):
        total, y = plain(**values)
        assert (total.dtype, y.dtype) == (torch.float32, torch.bfloat16)
        want = F.linear(truth(**values)[1], torch.eye(24, device='cuda'))
    torch.testing.assert_close(y, want, rtol=1e-2, atol=1e-2)


def test_unused_result_has_no_gradient(short_programs):
    values, grads = make()
    x = values.pop('x').requires_grad_()
    total, _ = fused(x, **values)
    (grad,) = torch.autograd.grad(total, x, grads[0])
    assert torch.equal(grad, grads[0])


def test_second_derivatives_are_refused():
    values, grads = make()
    x = values.pop('x').requires_grad_()
    _, y = fused(x, **values)
    (grad,) = torch.autograd.grad(y, x, grads[1].requires_grad_(), create_graph=True)
    with pytest.raises(NotImplementedError, match='twice'):
        grad.sum().backward()


@pytest.mark.parametrize('device', DEVICES)
def test_strides_of_small_tensors_make_no_difference(device, short_programs):
    values, grads = make(device=device)
    strided = {
        name: v if v is None or v.dim() > 1 else v.repeat_interleave(2)[::2]
        for name, v in values.items()
    }
    assert strided['weight'].stride() == (2,)
    for g, w in zip(fused(**strided), fused(**values), strict=True):
        assert torch.equal(g, w)
    got, want = gradients(fused, strided, grads)[2], gradients(fused, values, grads)[2]
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize(
    'name, value, words',
    [
        ('branch', torch.zeros(1, 5, 24), ('branch', '(1, 5, 24)', '(3, 5, 24)')),
        ('weight', torch.zeros(12), ('weight', '(12,)', '(24,)')),
        ('bias', torch.zeros(48), ('bias', '(48,)', '(24,)')),
        ('scale', torch.zeros(5), ('scale', '(5,)', '(3,)')),
        ('branch_bias', torch.zeros(12), ('branch_bias', '(12,)', '(24,)')),
        ('branch', None, ('branch_bias', 'without')),
        ('denominator', torch.zeros(5, 4), ('24 channels', '5 groups', 'denominator')),
    ],
)
def test_input_that_does_not_fit_is_refused_with_its_name_and_shape(name, value, words):
    values, _ = make()
    with pytest.raises(ValueError) as error:
        plain(**{**values, name: value})
    assert all(word in str(error.value) for word in words)


def test_numerator_and_denominator_come_together():
    x, weight = torch.zeros(2, 3, 8), torch.ones(8)
    with pytest.raises(ValueError, match='numerator and denominator come together'):
        add_layer_norm(x, weight, weight, 1e-6, numerator=torch.zeros(1, 6))
