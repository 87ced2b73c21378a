import pytest
import torch
import torch.nn.functional as F

from kat_mm.ops import linear
from kat_mm.ops.linear_triton import column_sum

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('shape', [(1, 1), (3, 40), (700, 6), (130, 192)])
def test_column_sum_equals_float64(shape, dtype, device):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    total = column_sum(x)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), x.double().sum(0), rtol=1e-5, atol=1e-4)


def make(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 50, 24), (40, 24), (40,)
    return [torch.randn(*s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('with_bias', [True, False])
def test_gradients_equal_those_of_pytorch_in_float64(with_bias, device):
    leaves = make(device, torch.float64)[: 3 if with_bias else 2]
    got = linear(*leaves, *[None] * (not with_bias))
    want = F.linear(*leaves)
    grad = torch.randn_like(want)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad)
    )


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_keeps_weight_gradients_in_float32(dtype):
    leaves = make('cuda')
    with torch.autocast('cuda', dtype):
        y = linear(*leaves)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, grad)
    rounded = [leaf.detach().to(dtype).double().requires_grad_() for leaf in leaves]
    want = torch.autograd.grad(F.linear(*rounded), rounded, grad.double())
    assert y.dtype == dtype and all(g.dtype == torch.float32 for g in got)
    # Inputs are rounded, products and sums are not.
    torch.testing.assert_close(got[1].double(), want[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[2].double(), want[2], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_second_derivatives_equal_those_of_pytorch():
    leaves = make('cuda', torch.float64)

    def second(function):
        gradients = torch.autograd.grad((function(*leaves) ** 3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)

    torch.testing.assert_close(second(linear), second(F.linear))
