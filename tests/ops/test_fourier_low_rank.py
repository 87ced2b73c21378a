"""fourier_low_rank, compared with the formula written out in float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kat_mm.ops import fourier_low_rank
from kat_mm.ops import fourier_low_rank_eager as eager
from kat_mm.ops import fourier_low_rank_triton as triton_backend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# (B, heads, queries, keys, head dimension, rank, grid)
SHAPES = [
    (3, 2, 37, 41, 24, 5, 3),
    (1, 1, 1, 2, 8, 12, 1),
    (1, 2, 66, 65, 16, 20, 2),  # two tiles of queries and of keys, rank beyond one tile
]
GPU_SHAPES = [
    (4, 3, 197, 197, 64, 12, 3),
    (2, 6, 196, 196, 64, 12, 1),
    (1, 2, 1024, 1024, 64, 12, 5),
]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 6e-3,
    torch.float16: 1e-3,
}
# The sine of GPUs has an absolute error of 2^-20.
KERNEL_TOLERANCE = {**TOLERANCE, torch.float32: 1e-5 if torch.cuda.is_available() else 2e-6}


def make(shape, dtype=torch.float64, device='cpu', spread=1.0):
    """Inputs as attention has them: q, k are views of (B, N, 3, heads, d)."""
    batch, heads, queries, keys, dims, rank, grid = shape
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    q = spread * random(batch, queries, 3, heads, dims)[:, :, 0].transpose(1, 2)
    k = random(batch, keys, 3, heads, dims)[:, :, 1].transpose(1, 2)
    coefficients = random(heads, 2 * grid, rank, keys) / (keys * grid) ** 0.5
    grad = random(batch, heads, queries, rank)
    # Rounded once, so that low precision is compared for its arithmetic and not for its input.
    q, k, grad = (t.to(dtype) for t in (q, k, grad))
    coefficients = coefficients.to(torch.promote_types(dtype, torch.float32))
    return tuple(t.to(device) for t in (q, k, coefficients, grad))


def truth(q, k, coefficients, grad):
    """Output and gradients of the formula, term by term, in float64."""
    q, k, coefficients, grad = (t.detach().cpu().double() for t in (q, k, coefficients, grad))
    leaves = [t.clone().requires_grad_() for t in (q, k, coefficients)]
    scores = torch.einsum('bhid,bhjd->bhij', *leaves[:2]) * scale(q)
    a, b = leaves[2].chunk(2, dim=1)
    y = 0
    for g in range(a.shape[1]):
        y = y + torch.einsum('bhij,hrj->bhir', torch.cos((g + 1) * scores), a[:, g])
        y = y + torch.einsum('bhij,hrj->bhir', torch.sin((g + 1) * scores), b[:, g])
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def scale(q):
    return q.shape[-1] ** -0.5


def run_operator(q, k, coefficients, grad):
    leaves = [t.detach().requires_grad_() for t in (q, k, coefficients)]
    y = fourier_low_rank(*leaves, scale(q))
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def run_kernels(q, k, coefficients, grad):
    inputs = q, k, coefficients, scale(q)
    return triton_backend.forward(*inputs), *triton_backend.backward(grad, *inputs)


BACKENDS = {'operator': run_operator, 'kernels': run_kernels}


def assert_close(got, want, tolerance):
    names = ('output', 'grad of q', 'grad of k', 'grad of coefficients')
    for name, g, w in zip(names, got, want, strict=True):
        assert g.shape == w.shape, name
        error = (g.cpu().double() - w).norm() / w.norm().clamp(min=1e-30)
        assert error <= tolerance, f'{name}: relative error {error:.2e}'


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
def test_operator_equals_the_formula(shape, dtype, device):
    inputs = make(shape, dtype, device)
    got = run_operator(*inputs)
    assert [t.dtype for t in got] == [dtype] * 3 + [inputs[2].dtype]
    assert_close(got, truth(*inputs), TOLERANCE[dtype])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('shape', SHAPES)
def test_kernels_equal_the_formula(shape, dtype, device):
    inputs = make(shape, dtype, device)
    assert_close(run_kernels(*inputs), truth(*inputs), KERNEL_TOLERANCE[dtype])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_kernels_take_coefficients_of_a_standard_normal_distribution(dtype, device):
    """KArAt's start: with it the outputs are as large as the root of their number of terms."""
    q, k, coefficients, grad = make(SHAPES[0], dtype, device)
    inputs = q, k, coefficients / coefficients.std(), grad
    assert_close(run_kernels(*inputs), truth(*inputs), KERNEL_TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('shape', GPU_SHAPES)
def test_kernels_equal_the_formula_on_real_shapes(shape, dtype):
    inputs = make(shape, dtype, 'cuda')
    assert_close(run_kernels(*inputs), truth(*inputs), KERNEL_TOLERANCE[dtype])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_scores_of_many_turns_keep_their_angle(backend, device):
    q, k, coefficients, grad = make(SHAPES[0], torch.float32, device, spread=100.0)
    want = truth(q, k, coefficients, grad)
    # The scores themselves have an error of 1e-5 there.
    assert_close(BACKENDS[backend](q, k, coefficients, grad), want, 3e-4)


@pytest.mark.parametrize('chunk', [1, 41 * 2 * 10, 41 * 2 * 37 * 2])
def test_chunks_of_queries_and_images_make_no_difference(chunk, monkeypatch):
    inputs = make(SHAPES[0])
    monkeypatch.setattr(eager, '_CHUNK', chunk)
    assert_close(run_operator(*inputs), truth(*inputs), 1e-12)


@pytest.mark.parametrize('programs', [1, 4])
def test_programs_of_several_images_add_up_all_of_them(programs, monkeypatch):
    monkeypatch.setattr(triton_backend, '_PROGRAMS', programs)
    inputs = make((5, 2, 18, 17, 8, 3, 2), torch.float32)
    assert_close(run_kernels(*inputs), truth(*inputs), 2e-6)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize('shape', [(6, 2, 40, 50, 4, 3, 3), (1, 2, 240, 50, 4, 3, 3)])
def test_no_tensor_grows_with_images_times_queries_times_keys(shape, monkeypatch):
    batch, heads, queries, keys, *_ = shape
    chunk = heads * queries * keys * batch // 6
    monkeypatch.setattr(eager, '_CHUNK', chunk)
    q, k, coefficients, grad = make(shape)
    with LargestTensor() as largest:
        eager.forward(q, k, coefficients, scale(q))
        eager.backward(grad, q, k, coefficients, scale(q))
    assert largest.numel == chunk


def test_gradients_agree_with_finite_differences():
    q, k, coefficients, _ = make((2, 2, 3, 4, 5, 2, 2))
    leaves = [t.requires_grad_() for t in (q, k, coefficients)]
    assert torch.autograd.gradcheck(lambda *t: fourier_low_rank(*t, 0.7), leaves)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_both_operators_keep_the_rules_of_torch_library(device, dtype):
    q, k, coefficients, grad = make(SHAPES[0], dtype, device)
    leaves = [t.detach().requires_grad_() for t in (q, k, coefficients)]
    torch.library.opcheck(torch.ops.kat_mm.fourier_low_rank.default, (*leaves, 0.3))
    torch.library.opcheck(
        torch.ops.kat_mm.fourier_low_rank_backward.default, (grad, q, k, coefficients, 0.3)
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_strides_make_no_difference(backend, device):
    q, k, coefficients, grad = make(SHAPES[0], torch.float32, device)
    want = BACKENDS[backend](*(t.contiguous() for t in (q, k, coefficients, grad)))
    strided = (t.mT.contiguous().mT for t in (q, k, coefficients, grad))
    assert_close(BACKENDS[backend](*strided), [t.cpu().double() for t in want], 1e-6)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_same_input_gives_the_same_bits(backend, device):
    inputs = make(SHAPES[0], torch.bfloat16, device)
    first, second = (BACKENDS[backend](*inputs) for _ in range(2))
    for f, s in zip(first, second, strict=True):
        assert torch.equal(f, s)


def test_an_empty_batch_has_zero_gradient_of_the_coefficients():
    y, grad_q, _, grad_c = run_operator(*make((0, 2, 5, 5, 8, 3, 2)))
    assert y.shape == (0, 2, 5, 3) and grad_q.shape == (0, 2, 5, 8)
    assert not grad_c.any()


def test_kernels_are_for_half_types_and_what_fits_into_registers():
    def supported(shape, dtype):
        q, _, coefficients, _ = make(shape, dtype)
        return triton_backend.supports(q, coefficients)

    assert supported((1, 1, 2, 2, 64, 12, 3), torch.bfloat16)
    assert supported((1, 1, 2, 2, 64, 12, 3), torch.float16)
    assert not supported((1, 1, 2, 2, 64, 12, 3), torch.float32)
    assert not supported((1, 1, 2, 2, 64, 12, 9), torch.bfloat16)
    assert not supported((1, 1, 2, 2, 160, 12, 3), torch.bfloat16)
    assert not supported((0, 1, 2, 2, 64, 12, 3), torch.bfloat16)


Q, K, C = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8), torch.zeros(3, 4, 6, 7)


@pytest.mark.parametrize(
    'inputs, error, words',
    [
        ((Q.int(), K, C), TypeError, ['q', 'torch.int32']),
        ((Q, K.half(), C), TypeError, ['torch.float32', 'torch.float16']),
        ((Q[0], K, C), ValueError, ['q', '(3, 5, 8)', 'four']),
        ((Q, K[..., :4], C), ValueError, ['(2, 3, 5, 8)', '(2, 3, 7, 4)']),
        ((Q, K, C[:2]), ValueError, ['(2, 4, 6, 7)', '(3, 2 G, r, 7)']),
        ((Q, K, C[..., :5]), ValueError, ['(3, 4, 6, 5)', '(3, 2 G, r, 7)']),
        ((Q, K, C[:, :3]), ValueError, ['(3, 3, 6, 7)', '2 G']),
        ((Q, K, C.to('meta')), ValueError, ['coefficients', 'meta', 'cpu']),
    ],
)
def test_input_that_does_not_fit_is_refused_with_its_name_and_value(inputs, error, words):
    with pytest.raises(error) as raised:
        fourier_low_rank(*inputs, 1.0)
    for word in words:
        assert word in str(raised.value)
