import pytest
import torch
from torchvision.ops import nms

from kat_mm.ops import suppress
from kat_mm.ops import suppress_eager as eager
from kat_mm.ops import suppress_triton as kernels

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def random_sets(sets, n, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(sets, n, 2, generator=generator)
    extent = 30 * torch.rand(sets, n, 2, generator=generator)
    valid = torch.rand(sets, n, generator=generator) < 0.9
    return torch.cat([corner, corner + extent], dim=2).to(dtype), valid


def by_torchvision(boxes, valid, threshold):
    keep = torch.zeros_like(valid)
    for i, (own, where) in enumerate(zip(boxes, valid, strict=True)):
        index = where.nonzero()[:, 0]
        scores = torch.linspace(1, 0, len(index), dtype=own.dtype)
        keep[i, index[nms(own[index], scores, threshold)]] = True
    return keep


def by_kernels(boxes, valid, threshold):
    return kernels.forward(boxes.to(DEVICE), valid.to(DEVICE), threshold).cpu()


@pytest.mark.parametrize('function', [suppress, by_kernels])
@pytest.mark.parametrize('n', [1, 31, 32, 33, 70, 130])
@pytest.mark.parametrize('threshold', [0.3, 0.7])
def test_it_keeps_what_torchvision_keeps_of_each_set(function, n, threshold):
    boxes, valid = random_sets(3, n, seed=n)
    kept = function(boxes, valid, threshold)
    assert torch.equal(kept, by_torchvision(boxes, valid, threshold))
    assert n < 70 or kept.sum() < valid.sum()


def test_float64_is_compared_in_float64():
    boxes, valid = random_sets(2, 60, dtype=torch.float64)
    assert torch.equal(suppress(boxes, valid, 0.5), by_torchvision(boxes, valid, 0.5))


@pytest.mark.parametrize('function', [eager.forward, by_kernels])
def test_boxes_without_area_suppress_nothing(function):
    boxes = torch.tensor([[1.0, 1, 1, 1]]).repeat(40, 1)[None]
    assert function(boxes, torch.ones(1, 40, dtype=torch.bool), 0.5).all()


def test_no_boxes_and_none_that_take_part():
    assert suppress(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), 0.5).shape == (2, 0)
    assert not suppress(torch.rand(2, 5, 4), torch.zeros(2, 5, dtype=torch.bool), 0.5).any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'must have the shapes \(P, n, 4\) and \(P, n\)'):
        suppress(torch.rand(5, 4), torch.ones(5, dtype=torch.bool), 0.5)


@pytest.mark.gpu
def test_as_many_boxes_as_an_rpn_proposes():
    boxes, valid = random_sets(10, 2000)
    boxes[..., :2] *= 20
    boxes[..., 2:] += boxes[..., :2]
    got = suppress(boxes.cuda(), valid.cuda(), 0.7).cpu()
    assert torch.equal(got, by_torchvision(boxes, valid, 0.7))


def test_the_operator_keeps_the_rules_of_torch_library():
    boxes, valid = random_sets(3, 40)
    operator = torch.ops.kat_mm.suppress.default
    torch.library.opcheck(operator, (boxes.to(DEVICE), valid.to(DEVICE), 0.5))
