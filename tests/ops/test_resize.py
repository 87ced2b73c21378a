"""resize, compared with PyTorch's interpolation in float64."""

import pytest
import torch
import torch.nn.functional as F

from kat_mm.ops import resize
from kat_mm.ops import resize_triton as triton_backend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# (B, C, h, w), (H, W): up, down, odd ratios, one direction alone, single pixels, nothing to do
CASES = [
    ((2, 3, 5, 6), (20, 24)),
    ((1, 5, 7, 9), (10, 31)),
    ((2, 3, 16, 12), (5, 4)),
    ((1, 4, 8, 8), (8, 13)),
    ((2, 3, 1, 1), (13, 11)),
    ((1, 2, 3, 3), (1, 1)),
    ((1, 2, 1, 4), (6, 1)),
    ((1, 3, 4, 4), (4, 4)),
]
GPU_CASES = [
    ((16, 512, 32, 32), (128, 128)),
    ((16, 150, 128, 128), (512, 512)),
    ((4, 512, 1, 1), (64, 64)),
    ((2, 512, 6, 6), (16, 16)),
]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 5e-4,
}


def make(case, dtype=torch.float64, device='cpu', channels_last=False):
    shape, size = case
    generator = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn(*shape[:2], *sides, generator=generator, dtype=torch.float64).to(dtype)
        for sides in (shape[2:], size)
    )
    if channels_last:
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    return x.to(device), grad.to(device)


def truth(x, grad, align_corners):
    x = x.detach().cpu().double().requires_grad_()
    y = F.interpolate(x, grad.shape[2:], mode='bilinear', align_corners=align_corners)
    return y.detach(), torch.autograd.grad(y, x, grad.cpu().double())[0]


def run_operator(x, grad, align_corners):
    x = x.detach().requires_grad_()
    y = resize(x, grad.shape[2:], align_corners)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def run_kernels(x, grad, align_corners):
    y = triton_backend.forward(x, tuple(grad.shape[2:]), align_corners)
    return y, triton_backend.backward(grad, tuple(x.shape[2:]), align_corners)


BACKENDS = {'operator': run_operator, 'kernels': run_kernels}


def assert_close(got, want, tolerance):
    for name, g, w in zip(('output', 'gradient'), got, want, strict=True):
        assert g.shape == w.shape, name
        error = (g.cpu().double() - w).norm() / w.norm()
        assert error <= tolerance, f'{name}: {error:.2e}'


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('case', CASES)
def test_both_ways_equal_interpolation(case, backend, align_corners, device):
    inputs = make(case, torch.float64, device)
    got = BACKENDS[backend](*inputs, align_corners)
    assert_close(got, truth(*inputs, align_corners), 1e-12)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('backend', BACKENDS)
def test_arithmetic_is_in_float32_at_least(backend, dtype, channels_last, device):
    inputs = make(CASES[1], dtype, device, channels_last)
    got = BACKENDS[backend](*inputs, False)
    assert all(t.dtype == dtype for t in got)
    assert_close(got, truth(*inputs, False), TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('case', GPU_CASES)
def test_real_shapes(case, align_corners, channels_last):
    inputs = make(case, torch.bfloat16, 'cuda', channels_last)
    got = run_operator(*inputs, align_corners)
    assert_close(got, truth(*inputs, align_corners), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_memory_format_is_kept(backend, device):
    for channels_last in (False, True):
        inputs = make(CASES[0], torch.float32, device, channels_last)
        kept = torch.channels_last if channels_last else torch.contiguous_format
        for result in BACKENDS[backend](*inputs, False):
            assert result.is_contiguous(memory_format=kept)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_strides_make_no_difference(backend, device):
    x, grad = make(CASES[0], torch.float32, device)
    want = truth(x, grad, False)
    for dim in (1, 2, 3):  # slices of a concatenation among them
        strided = (torch.stack([t, t], dim=dim).select(dim, 1) for t in (x, grad))
        assert_close(BACKENDS[backend](*strided, False), want, 1e-6)
    expanded = torch.ones((), device=device).expand(grad.shape)
    assert_close(BACKENDS[backend](x, expanded, False), truth(x, expanded, False), 1e-6)


@pytest.mark.parametrize('channels_last', [False, True])
def test_sums_over_many_positions_go_one_direction_after_the_other(channels_last, monkeypatch):
    monkeypatch.setattr(triton_backend, '_MAX_TAPS', 1)
    for align_corners in (False, True):
        inputs = make(CASES[0], torch.float32, channels_last=channels_last)
        got = run_kernels(*inputs, align_corners)
        assert_close(got, truth(*inputs, align_corners), 1e-6)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_same_input_gives_the_same_bits(backend, device):
    inputs = make(CASES[1], torch.bfloat16, device)
    first, second = (BACKENDS[backend](*inputs, False) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize('device', DEVICES)
def test_the_operators_keep_the_rules_of_torch_library(device):
    x, grad = make(CASES[0], torch.float32, device)
    x.requires_grad_()
    torch.library.opcheck(torch.ops.kat_mm.resize.default, (x, [20, 24], True))
    torch.library.opcheck(torch.ops.kat_mm.resize_backward.default, (grad, [5, 6], True))


def test_gradients_agree_with_finite_differences():
    x, grad = make(CASES[1])
    assert torch.autograd.gradcheck(lambda t: resize(t, grad.shape[2:]), x.requires_grad_())


@pytest.mark.parametrize('backend', BACKENDS)
def test_an_empty_batch_is_resized_to_an_empty_batch(backend):
    x, grad = make(((0, 3, 4, 4), (8, 8)))
    y, grad_x = BACKENDS[backend](x, grad, False)
    assert (y.shape, grad_x.shape) == (grad.shape, x.shape)


@pytest.mark.parametrize(
    'x, size, message',
    [
        (torch.zeros(3, 4, 4), (8, 8), r'x is \(3, 4, 4\); it must be \(B, C, h, w\)'),
        (torch.zeros(1, 3, 4, 4), (8, 0), r'size are \(8, 0\)'),
        (torch.zeros(1, 3, 4, 4), (8, 8, 8), r'size are \(8, 8, 8\)'),
        (torch.zeros(1, 3, 0, 4), (8, 8), r'dimensions of x are \(0, 4\)'),
    ],
)
def test_maps_and_sizes_that_do_not_fit_are_refused(x, size, message):
    with pytest.raises(ValueError, match=message):
        resize(x, size)


def test_integers_are_refused():
    with pytest.raises(TypeError, match='x has dtype torch.int64'):
        resize(torch.zeros(1, 3, 4, 4, dtype=torch.int64), (8, 8))
