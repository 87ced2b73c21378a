"""The walks of CONTRIBUTING, gone by a package of somebody else's (``outside/``)."""

from collections import OrderedDict

import outside
import pytest
import torch
from outside import smooth_abs_eager, smooth_abs_triton

from kat_mm.backbones import KAT
from kat_mm.checkpoints import to_official
from kat_mm.checkpoints.layouts import LAYOUTS, register_layout
from kat_mm.ops.common import backend

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def build(**kwargs):
    torch.manual_seed(0)
    return KAT(ARCH, img_size=32, patch_size=8, drop_path_rate=0.1, **kwargs)


def test_an_attention_and_a_feed_forward_are_built_trained_and_share_what_they_say():
    model = build(
        attn_cfg=dict(type='MeanAttention', scale=2.0), ffn_cfg=dict(type='GatedFeedForward')
    )
    model.init_weights()
    assert {type(block.attn) for block in model.blocks} == {outside.MeanAttention}
    assert all(block.attn.scale == 2.0 for block in model.blocks)
    assert len({id(block.attn.shared) for block in model.blocks}) == 1
    assert (model.blocks[2].mlp.out.bias == 0.25).all()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images, target = torch.randn(4, 3, 32, 32), torch.randn(4, 16)
    losses = []
    for _ in range(20):
        loss = (model(images)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_an_attention_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match='MeanAttention: it has neither windows'):
        build(
            attn_cfg=dict(type='MeanAttention', _scope_='mmengine'),
            window_size=2,
            with_cls_token=False,
            out_type='featmap',
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('shape', [(1,), (3, 5), (2, 700)])
@pytest.mark.parametrize('module', [smooth_abs_eager, smooth_abs_triton])
def test_an_operator_equals_its_formula(module, shape, dtype):
    x, grad = (torch.randn(shape).to(DEVICE, dtype) for _ in range(2))
    exact = x.double().requires_grad_()
    y = (exact**2 + 0.1).sqrt()
    (want,) = torch.autograd.grad(y, exact, grad.double())
    tolerance = dict(rtol=4 * torch.finfo(dtype).eps, atol=1e-6 if dtype.itemsize > 2 else 1e-2)
    torch.testing.assert_close(module.forward(x, 0.1).double(), y.detach(), **tolerance)
    torch.testing.assert_close(module.backward(grad, x, 0.1).double(), want, **tolerance)


def test_an_operator_keeps_the_rules_of_torch_library_and_is_differentiated():
    x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    torch.library.opcheck(torch.ops.outside.smooth_abs.default, (x, 0.1))
    assert torch.autograd.gradcheck(outside.smooth_abs, (x, 0.1))
    compiled = torch.compile(outside.smooth_abs, backend='aot_eager', fullgraph=True)
    assert torch.equal(compiled(x, 0.1), outside.smooth_abs(x, 0.1))
    with pytest.raises(TypeError, match='smooth_abs: x has dtype torch.int64'):
        outside.smooth_abs(torch.ones(2, dtype=torch.long), 0.1)


def test_an_operator_chooses_its_kernels(monkeypatch):
    monkeypatch.setattr(backend, 'runs_kernels', lambda x: True)
    x = torch.randn(3, 5, device=DEVICE)
    assert torch.equal(outside.smooth_abs(x, 0.1), smooth_abs_triton.forward(x, 0.1))


def test_a_layout_is_recognised_and_converted():
    state = build().state_dict()
    theirs = OrderedDict(
        (
            key.replace('blocks.', 'layers.')
            .replace('.norm1.', '.before_attention.')
            .replace('.norm2.', '.before_mlp.'),
            value,
        )
        for key, value in state.items()
    )
    official, left_out = to_official({'state_dict': theirs}, 'their.pth')
    assert not left_out and official.keys() == state.keys()
    assert all(torch.equal(official[key], state[key]) for key in state)


def test_a_layout_takes_no_other_ones_name():
    with pytest.raises(ValueError, match="'kat' is taken"):
        register_layout('kat', LAYOUTS['outside'])
