import pytest
import torch
import torch.nn.functional as F

from kat_mm.ops import qkv_linear
from kat_mm.ops.qkv_linear_triton import join_heads

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]


def make(device, dtype=torch.float32, tokens=5):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, tokens, 24), (72, 24), (72,)
    return [torch.randn(*s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


def heads(x, weight, bias):
    """Three heads of eight channels, taken from the linear map one at a time."""
    qkv = x @ weight.T + (0 if bias is None else bias)
    columns = [qkv[..., c : c + 8] for c in range(0, 72, 8)]
    return [torch.stack(columns[i : i + 3], dim=1) for i in (0, 3, 6)]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('with_bias', [True, False])
def test_heads_and_gradients_equal_the_plain_ones(device, with_bias):
    leaves = [leaf.detach().double().requires_grad_() for leaf in make(device)]
    leaves = leaves if with_bias else leaves[:2]
    got = qkv_linear(*leaves, *([] if with_bias else [None]), num_heads=3)
    want = heads(*leaves, *([] if with_bias else [None]))
    torch.testing.assert_close(list(got), want)
    grads = [torch.randn_like(w) for w in want]
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grads), torch.autograd.grad(want, leaves, grads)
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('layout', ['heads', 'tokens', 'different', 'transposed'])
@pytest.mark.parametrize('shape', [(2, 3, 5, 8), (1, 2, 300, 6), (3, 4, 1, 64)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_joined_gradients_are_the_parts_side_by_side(layout, shape, dtype, device):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=generator).to(device, dtype) for _ in range(3)]
    want = torch.cat([p.transpose(1, 2).flatten(2).flatten(0, 1) for p in parts], dim=1)
    change = {
        'heads': lambda i, p: p,
        'tokens': lambda i, p: p.transpose(1, 2).contiguous().transpose(1, 2),
        'different': lambda i, p: p if i else p.transpose(1, 2).contiguous().transpose(1, 2),
        'transposed': lambda i, p: p.mT.contiguous().mT,
    }[layout]
    joined, total = join_heads(*(change(i, p) for i, p in enumerate(parts)), with_sum=True)
    assert torch.equal(joined, want)
    torch.testing.assert_close(total.double(), want.double().sum(0), rtol=1e-3, atol=1e-2)
    joined, total = join_heads(*parts, with_sum=False)
    assert torch.equal(joined, want) and total is None


@pytest.mark.gpu
def test_autocast_computes_in_its_dtype_and_keeps_that_of_the_gradients():
    leaves = make('cuda', tokens=197)
    with torch.autocast('cuda', torch.bfloat16):
        got = qkv_linear(*leaves, num_heads=3)
    want = heads(*(leaf.double() for leaf in leaves))
    assert all(g.dtype == torch.bfloat16 for g in got)
    grads = [torch.randn_like(g) for g in got]
    got_grads = torch.autograd.grad(got, leaves, grads)
    want_grads = torch.autograd.grad(want, leaves, [g.double() for g in grads])
    for g, w, leaf in zip(got_grads, want_grads, leaves, strict=True):
        assert g.dtype == leaf.dtype
        assert (g - w).norm() <= 1e-2 * w.norm()


@pytest.mark.gpu
def test_frozen_inputs_get_no_gradient():
    x, weight, bias = make('cuda')
    q, _, _ = qkv_linear(x.detach(), weight, bias.detach(), num_heads=3)
    q.sum().backward()
    torch.testing.assert_close(
        weight.grad[:24], x.detach().sum((0, 1)).expand(24, 24), rtol=1e-3, atol=1e-3
    )
    assert F.linear(x, weight).grad_fn is not None and bias.grad is None


@pytest.mark.gpu
def test_second_derivatives_equal_the_plain_ones():
    leaves = [leaf.detach().double().requires_grad_() for leaf in make('cuda')]

    def second(function):
        y = torch.cat([part.flatten() for part in function(*leaves)])
        gradients = torch.autograd.grad((y**3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)

    torch.testing.assert_close(second(lambda *i: qkv_linear(*i, num_heads=3)), second(heads))
