"""resampled_argmax, compared with interpolation and argmax in float64."""

import pytest
import torch
import torch.nn.functional as F

from kat_mm.ops import Taps, bilinear_rows, resampled_argmax
from kat_mm.ops import resampled_argmax_triton as triton_backend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
BACKENDS = {'operator': resampled_argmax, 'kernels': triton_backend.forward}


def random(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def taps(size_in, *sizes, align_corners=False, device='cpu'):
    """Of resizes one after the other."""
    matrix = torch.eye(size_in, dtype=torch.float64)
    for size in sizes:
        matrix = bilinear_rows(matrix, size, align_corners)
    return Taps(*(t.to(device) for t in Taps.of(matrix)))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('sizes', [[(10, 13)], [(12, 16), (7, 9)], [(1, 5)], [(3, 4)]])
def test_classes_of_resized_logits(sizes, backend, align_corners, device):
    logits = random(2, 11, 3, 4)
    rows = taps(3, *(h for h, _ in sizes), align_corners=align_corners, device=device)
    columns = taps(4, *(w for _, w in sizes), align_corners=align_corners, device=device)
    got = BACKENDS[backend](logits.to(device), rows, columns)
    for size in sizes:
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=align_corners)
    assert got.dtype == torch.int64
    assert torch.equal(got.cpu(), logits.argmax(dim=1))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('backend', BACKENDS)
def test_arithmetic_is_in_float32_at_least(backend, dtype, device):
    logits = random(1, 5, 3, 4, dtype=dtype).to(device)
    sizes = taps(3, 6, device=device), taps(4, 7, device=device)
    got = BACKENDS[backend](logits, *sizes)
    want = F.interpolate(logits.double(), (6, 7), mode='bilinear').argmax(dim=1)
    assert torch.equal(got, want)


@pytest.mark.parametrize('backend', BACKENDS)
def test_of_equal_logits_the_first_class_is_taken(backend):
    assert BACKENDS[backend](torch.zeros(1, 5, 2, 2), taps(2, 3), taps(2, 3)).max() == 0


@pytest.mark.parametrize('backend', BACKENDS)
def test_memory_format_makes_no_difference(backend):
    logits, sizes = random(2, 5, 3, 4), (taps(3, 6), taps(4, 7))
    got = BACKENDS[backend](logits.contiguous(memory_format=torch.channels_last), *sizes)
    assert torch.equal(got, BACKENDS[backend](logits, *sizes))


def test_taps_are_the_nonzero_entries_of_a_matrix():
    matrix = torch.tensor([[0, 0, 0], [0, 2.0, 0], [1, 0, 3]], dtype=torch.float64)
    table = Taps.of(matrix)
    assert table.count.tolist() == [0, 1, 2]
    assert table.index.tolist() == [[0, 0], [1, 0], [0, 2]]
    assert torch.equal(table.matrix(3), matrix)


@pytest.mark.parametrize('device', DEVICES)
def test_the_operator_keeps_the_rules_of_torch_library(device):
    logits = random(1, 5, 3, 4).to(device)
    sizes = taps(3, 6, device=device), taps(4, 7, device=device)
    torch.library.opcheck(torch.ops.kat_mm.resampled_argmax.default, (logits, *sizes[0], *sizes[1]))


def test_what_does_not_fit_is_refused():
    sizes = taps(3, 6), taps(4, 7)
    with pytest.raises(ValueError, match=r'logits is \(3, 4\); it must be \(B, C, h, w\)'):
        resampled_argmax(torch.zeros(3, 4), *sizes)
    with pytest.raises(TypeError, match='logits has dtype torch.int64'):
        resampled_argmax(torch.zeros(1, 5, 3, 4).long(), *sizes)
