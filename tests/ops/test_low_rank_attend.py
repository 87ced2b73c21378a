import sys

import pytest
import torch

from kat_mm.ops import low_rank_attend

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# The node itself, which runs on a CPU too.
FUNCTIONS = {'node': sys.modules['kat_mm.ops.low_rank_attend']._apply, 'plain': low_rank_attend}


def make(device, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 7, 5), (3, 11, 5), (2, 11, 3, 4)
    hidden, weight, v = (torch.randn(*s, generator=generator).to(device, dtype) for s in shapes)
    # Values are views into those of all heads and of queries and keys.
    return [t.requires_grad_() for t in (hidden, weight, v.transpose(1, 2))]


def truth(hidden, weight, v):
    weights = hidden.detach().double() @ weight.detach().double().mT
    return weights @ v.detach().double()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_it_is_attention_with_the_product_of_both_factors(name, device):
    inputs = make(device, torch.float64)
    torch.testing.assert_close(FUNCTIONS[name](*inputs), truth(*inputs))
    assert torch.autograd.gradcheck(FUNCTIONS[name], inputs)
    assert torch.autograd.gradgradcheck(FUNCTIONS[name], inputs)


@pytest.mark.parametrize('device', DEVICES)
def test_frozen_inputs_get_no_gradient_and_the_others_keep_theirs(device):
    def gradients(frozen):
        inputs = make(device, torch.float64)
        for index in frozen:
            inputs[index].requires_grad_(False)
        FUNCTIONS['node'](*inputs).square().sum().backward()
        return [t.grad for t in inputs]

    want = gradients(())
    for frozen in ((0,), (1, 2)):
        for index, (g, w) in enumerate(zip(gradients(frozen), want, strict=True)):
            assert g is None if index in frozen else torch.equal(g, w)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_no_images_are_no_error(name, device):
    hidden, weight, v = make(device, torch.float32)
    y = FUNCTIONS[name](hidden[:0], weight, v[:0])
    assert y.shape == (0, 3, 7, 4)
    y.sum().backward()
    assert not weight.grad.any()


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_rounds_inputs_and_keeps_weight_gradients_in_float32(dtype):
    inputs = make('cuda', torch.float32)
    with torch.autocast('cuda', dtype):
        y = low_rank_attend(*inputs)
    assert y.dtype == dtype
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, inputs, grad)
    exact = [t.detach().to(dtype).double().requires_grad_() for t in inputs]
    want = torch.autograd.grad(low_rank_attend(*exact), exact, grad.double())
    for g, w in zip(got, want, strict=True):
        assert g.dtype == torch.float32
        assert (g.double() - w).norm() <= 0.02 * w.norm()
