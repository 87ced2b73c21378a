"""resized_cross_entropy, compared with interpolation and cross-entropy in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kat_mm.ops import resized_cross_entropy
from kat_mm.ops import resized_cross_entropy_eager as eager
from kat_mm.ops import resized_cross_entropy_triton as triton_backend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# (B, K, h, w), (H, W)
CASES = [
    ((2, 5, 3, 4), (7, 9)),
    ((1, 11, 4, 3), (12, 8)),
    ((1, 3, 6, 6), (3, 4)),
    ((1, 2, 1, 1), (4, 4)),
    ((1, 1, 2, 33), (3, 35)),
]
GPU_CASES = [((4, 150, 128, 128), (512, 512)), ((4, 150, 32, 32), (512, 512))]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 5e-4,
}


def make(case, dtype=torch.float64, device='cpu', weighted=False, ignored=0.2):
    shape, size = case
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(shape[1], (shape[0], *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    weight = torch.rand(shape[1], generator=generator, dtype=torch.float64) if weighted else None
    if weighted:
        weight = weight.to(torch.promote_types(dtype, torch.float32)).to(device)
    return logits.to(dtype).to(device), labels.to(device), weight


def truth(logits, labels, weight, align_corners):
    logits = logits.detach().cpu().double().requires_grad_()
    labels, weight = labels.cpu().long(), None if weight is None else weight.cpu().double()
    resized = F.interpolate(logits, labels.shape[1:], mode='bilinear', align_corners=align_corners)
    loss = F.cross_entropy(resized, labels, weight, ignore_index=255, reduction='sum')
    valid = labels != 255
    weights = torch.ones_like(logits[0, :, 0, 0]) if weight is None else weight
    sums = (
        loss,
        weights[labels[valid]].sum(),
        (resized.argmax(dim=1) == labels)[valid].sum(),
        valid.sum(),
    )
    return [s.detach().double() for s in sums], torch.autograd.grad(loss, logits)[0]


def run_operator(logits, labels, weight, align_corners):
    logits = logits.detach().requires_grad_()
    sums = resized_cross_entropy(logits, labels, weight, 255, align_corners)
    return [s.detach() for s in sums], torch.autograd.grad(sums.loss, logits)[0]


def run_kernels(logits, labels, weight, align_corners):
    sums, lse, targets = triton_backend.forward(logits, labels, weight, 255, align_corners)
    grad = torch.ones_like(sums[0])
    return sums.unbind(), triton_backend.backward(grad, logits, lse, targets, weight, align_corners)


BACKENDS = {'operator': run_operator, 'kernels': run_kernels}


def assert_close(got, want, tolerance):
    for g, w in zip(got[0][:2], want[0][:2], strict=True):
        assert abs(g.item() - w.item()) <= tolerance * max(abs(w.item()), 1)
    assert [g.item() for g in got[0][2:]] == [w.item() for w in want[0][2:]]
    assert got[1].shape == want[1].shape
    error = (got[1].cpu().double() - want[1]).norm() / want[1].norm().clamp(min=1)
    assert error <= tolerance, f'gradient: {error:.2e}'


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('case', CASES)
def test_sums_and_gradient_equal_two_steps(case, backend, align_corners, device):
    logits, labels, weight = make(case, torch.float64, device, weighted=align_corners)
    got = BACKENDS[backend](logits, labels, weight, align_corners)
    assert_close(got, truth(logits, labels, weight, align_corners), 1e-12)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('backend', BACKENDS)
def test_arithmetic_is_in_float32_at_least(backend, dtype, device):
    inputs = make(CASES[0], dtype, device, weighted=True)
    got = BACKENDS[backend](*inputs, False)
    assert got[1].dtype == dtype
    assert all(s.dtype == torch.float32 for s in got[0])
    want = truth(*inputs, False)
    assert_close((got[0], want[1]), want, 1e-6)  # nothing is rounded to half precision before
    assert_close(got, want, TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize('case', GPU_CASES)
def test_real_shapes(case):
    inputs = make(case, torch.bfloat16, 'cuda')
    (loss, *others), grad = run_operator(*inputs, False)
    (want, *counts), want_grad = truth(*inputs, False)
    assert abs(loss.item() / want.item() - 1) < 1e-5
    # Where two logits are equal but for rounding, either may be found the larger.
    for other, count in zip(others, counts, strict=True):
        assert abs(other.item() - count.item()) < 1e-4 * count.item()
    error = (grad.cpu().double() - want_grad).norm() / want_grad.norm()
    assert error < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32])
@pytest.mark.parametrize('backend', BACKENDS)
def test_labels_may_be_of_any_integer_dtype(backend, dtype):
    logits, labels, _ = make(CASES[0], torch.float32)
    got = BACKENDS[backend](logits, labels.to(dtype), None, False)
    assert_close(got, truth(logits, labels, None, False), 1e-6)


@pytest.mark.parametrize('backend', BACKENDS)
def test_memory_format_makes_no_difference(backend):
    logits, labels, _ = make(CASES[0], torch.float32)
    logits = logits.contiguous(memory_format=torch.channels_last)
    got = BACKENDS[backend](logits, labels.mT.contiguous().mT, None, False)
    assert_close(got, truth(logits, labels, None, False), 1e-6)


@pytest.mark.parametrize('backend', BACKENDS)
def test_of_equal_logits_the_first_class_is_the_prediction(backend):
    labels = torch.arange(4).view(1, 2, 2)
    sums, _ = BACKENDS[backend](torch.zeros(1, 4, 3, 3), labels, None, False)
    assert sums[2].item() == 1


@pytest.mark.parametrize('backend', BACKENDS)
def test_pixels_that_are_all_ignored_have_no_loss_and_no_gradient(backend):
    logits, labels, _ = make(CASES[0], torch.float32, ignored=1.1)
    sums, grad = BACKENDS[backend](logits, labels, None, False)
    assert [s.item() for s in sums] == [0, 0, 0, 0]
    assert grad.abs().max() == 0


@pytest.mark.parametrize('backend', BACKENDS)
def test_large_logits_do_not_overflow(backend):
    logits, labels, _ = make(CASES[0], torch.float32)
    logits *= 1000
    assert_close(
        BACKENDS[backend](logits, labels, None, False), truth(logits, labels, None, False), 1e-4
    )


def test_an_unknown_label_raises_on_a_cpu():
    logits, labels, _ = make(CASES[0])
    labels[0, 2, 2] = 5
    with pytest.raises(IndexError, match='labels from 0 to 5; they must be 0 to 4'):
        resized_cross_entropy(logits, labels)


@pytest.mark.parametrize('unknown', [5, -1])
def test_an_unknown_label_makes_the_loss_of_the_kernels_nan(unknown):
    logits, labels, _ = make(CASES[0])
    labels[0, 2, 2] = unknown
    assert run_kernels(logits, labels, None, False)[0][0].isnan()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_same_input_gives_the_same_bits(backend, device):
    inputs = make(CASES[0], torch.bfloat16, device, weighted=True)
    (first, first_grad), (second, second_grad) = (
        BACKENDS[backend](*inputs, False) for _ in range(2)
    )
    assert all(map(torch.equal, first, second)) and torch.equal(first_grad, second_grad)


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.nbytes = max(self.nbytes, result.nbytes)
        return result


@pytest.mark.parametrize('module', [eager, triton_backend])
def test_no_tensor_holds_all_logits_at_the_size_of_the_labels(module):
    logits, labels, _ = make(((6, 7, 2, 2), (6, 6)))
    with LargestTensor() as largest:
        _, lse, targets = module.forward(logits, labels, None, 255, False)
        module.backward(lse.new_ones(()), logits, lse, targets, None, False)
    assert largest.nbytes <= 8 * 7 * labels[0].numel()


def test_gradients_agree_with_finite_differences():
    logits, labels, weight = make(((1, 3, 3, 2), (5, 6)), weighted=True)
    assert torch.autograd.gradcheck(
        lambda z: resized_cross_entropy(z, labels, weight).loss, logits.requires_grad_()
    )


def test_the_loss_alone_has_a_gradient():
    logits, labels, _ = make(CASES[0])
    sums = resized_cross_entropy(logits.requires_grad_(), labels)
    assert [s.requires_grad for s in sums] == [True, False, False, False]


@pytest.mark.parametrize('device', DEVICES)
def test_the_operators_keep_the_rules_of_torch_library(device):
    logits, labels, weight = make(CASES[0], torch.float32, device, weighted=True)
    logits.requires_grad_()
    inputs = logits, labels, weight, 255, True
    torch.library.opcheck(torch.ops.kat_mm.resized_cross_entropy.default, inputs)
    _, lse, targets = torch.ops.kat_mm.resized_cross_entropy(*inputs)
    torch.library.opcheck(
        torch.ops.kat_mm.resized_cross_entropy_backward.default,
        (torch.ones((), device=device), logits.detach(), lse.detach(), targets, weight, True),
    )


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(labels=torch.zeros(2, 1, 4, 4).long()), ValueError, r'they must be \(2, H, W\)'),
        (dict(labels=torch.zeros(3, 4, 4).long()), ValueError, r'they must be \(2, H, W\)'),
        (dict(labels=torch.zeros(2, 4, 4)), TypeError, 'labels have dtype torch.float32'),
        (dict(class_weight=torch.ones(4)), ValueError, r'class_weight is \(4,\); .* \(5,\)'),
        (dict(class_weight=torch.ones(5).long()), TypeError, 'class_weight has dtype'),
        (dict(logits=torch.zeros(2, 5, 4)), ValueError, r'it must be \(B, C, h, w\)'),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    logits, labels, _ = make(CASES[0])
    with pytest.raises(error, match=message):
        resized_cross_entropy(**{'logits': logits, 'labels': labels, **change})
