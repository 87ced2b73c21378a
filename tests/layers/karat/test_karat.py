"""The attention module, and the backbone that is built with it."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper

from kat_mm.backbones import KAT
from kat_mm.layers import KArAt, SoftmaxAttention
from kat_mm.layers.karat import project_l1_ball

GRID = (2, 3)
SMALL = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)


def attention(**kwargs):
    torch.manual_seed(0)
    module = KArAt(24, 3, GRID, **{'num_extra_tokens': 1, 'rank': 4, **kwargs})
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def tokens(batch=2, count=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, count, 24, generator=generator, dtype=torch.float64)


def explicit(module, x):
    """Head by head from the operator's weights."""
    q, k, v = (x @ module.qkv.weight.T + module.qkv.bias).split(24, dim=-1)
    karat = module.num_karat_heads
    q, k, v = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in (q, k, v))
    weights = module.operator(q[:, :karat], k[:, :karat], None, GRID)
    if module.project_l1:
        weights = project_l1_ball(weights)
    softmax = (q[:, karat:] @ k[:, karat:].mT / 8**0.5).softmax(dim=-1)
    y = torch.cat([weights, softmax], dim=1) @ v
    return y.transpose(1, 2).flatten(2) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize('operator', ['phi1_w2', 'w1_phi2', 'full'])
@pytest.mark.parametrize('heads', [None, 1, 2])
@pytest.mark.parametrize('project_l1', [False, True])
def test_output_and_gradients_equal_the_operator_head_by_head(operator, heads, project_l1):
    module = attention(operator=operator, num_karat_heads=heads, project_l1=project_l1)
    x = tokens().requires_grad_()
    leaves = [x, *module.parameters()]
    got, want = module(x, GRID), explicit(module, x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad),
        torch.autograd.grad(want, leaves, grad),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize('project_l1', [False, True])
def test_fused_and_plain_give_the_same(project_l1):
    x = tokens()
    fused, plain = (attention(fused=fused, project_l1=project_l1) for fused in (True, False))
    torch.testing.assert_close(fused(x, GRID), plain(x, GRID), rtol=1e-10, atol=1e-10)


def test_attention_dropout_acts_on_the_weights_and_only_in_training():
    module, x = attention(attn_drop_rate=1.0), tokens()
    assert torch.equal(module(x, GRID), module.proj.bias.expand(2, 7, 24))
    torch.testing.assert_close(module.eval()(x, GRID), explicit(module, x))


def test_under_autocast_it_computes_in_bfloat16_and_stays_close():
    module, x = attention().float(), tokens().float() / 2  # moderate scores
    with torch.autocast('cpu', torch.bfloat16):
        y = module(x, GRID)
    assert y.dtype == torch.bfloat16
    want = explicit(module.double(), x.double())
    assert (y - want).norm() <= 0.05 * want.norm()


def test_it_starts_as_softmax_attention_does_but_for_the_operator():
    torch.manual_seed(0)
    module = KArAt(96, 3, GRID, rank=4)
    operator = {name: p.clone() for name, p in module.operator.named_parameters()}
    module.init_weights()
    value = module.qkv.weight[192:]
    diagonal = (value.T @ module.proj.weight.T).diagonal()
    assert diagonal.mean().item() == pytest.approx(-0.4, abs=0.03)
    for name, parameter in module.operator.named_parameters():
        assert torch.equal(parameter, operator[name])


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(operator='phi2'), ["operator='phi2'", 'phi1_w2', 'w1_phi2', 'full']),
        (dict(mode='shared'), ["mode='shared'", 'blockwise', 'universal']),
        (dict(rank=8), ['rank=8', 'number of tokens, 7']),
        (dict(rank=0), ['rank=0', 'between 1']),
        (dict(num_karat_heads=4), ['num_karat_heads=4', 'num_heads=3']),
        (dict(num_karat_heads=0), ['num_karat_heads=0', 'between 1']),
        (dict(init='he'), ["init='he'", 'mimetic']),
    ],
)
def test_wrong_arguments_are_refused_with_name_and_value(arguments, words):
    with pytest.raises(ValueError) as raised:
        attention(**arguments)
    for word in words:
        assert word in str(raised.value)


def test_tokens_that_the_operator_was_not_made_for_are_refused():
    with pytest.raises(ValueError, match=r'6 tokens for a grid of \(2, 3\).*made for 1 tokens'):
        attention()(tokens(count=6), GRID)


# In the backbone


def backbone(size=32, **attn_cfg):
    torch.manual_seed(0)
    kwargs = attn_cfg.pop('kwargs', {})
    attn_cfg = dict(type='KArAt', rank=4, **attn_cfg)
    return KAT(arch=SMALL, img_size=size, patch_size=8, attn_cfg=attn_cfg, **kwargs)


def image(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def operator_parameters(model):
    return sum(p.numel() for name, p in model.named_parameters() if '.operator.' in name)


def test_published_sizes_have_the_operators_parameters_on_top():
    """KArAt's counts: heads x (2 G r N + r N), for each block or once."""
    per_block = 3 * (2 * 3 * 12 * 197 + 12 * 197)
    softmax = KAT('tiny', ffn_cfg=dict(type='MLP'))
    count = sum(p.numel() for p in softmax.parameters())
    for mode, blocks in (('blockwise', 12), ('universal', 1)):
        model = KAT('tiny', ffn_cfg=dict(type='MLP'), attn_cfg=dict(type='KArAt', mode=mode))
        assert operator_parameters(model) == blocks * per_block
        assert sum(p.numel() for p in model.parameters()) == count + blocks * per_block


def test_blocks_of_a_universal_model_share_one_operator_that_learns_from_all():
    model = backbone(mode='universal')
    assert len({id(block.attn.operator) for block in model.blocks}) == 1
    assert operator_parameters(model) == operator_parameters(backbone()) // 3
    operator = model.blocks[0].attn.operator
    (gradient,) = torch.autograd.grad(model(image())[0].sum(), operator.weight)
    # The same weights in blocks of their own: the sum of their gradients.
    apart = backbone()
    apart.load_state_dict(model.state_dict())
    weights = [block.attn.operator.weight for block in apart.blocks]
    gradients = torch.autograd.grad(apart(image())[0].sum(), weights)
    torch.testing.assert_close(gradient, sum(gradients), rtol=1e-4, atol=1e-5)


def test_universal_operators_stay_shared_through_a_checkpoint():
    source, target = backbone(mode='universal'), backbone(mode='universal')
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    target.load_state_dict(source.state_dict())
    assert target.blocks[2].attn.operator is target.blocks[0].attn.operator
    torch.testing.assert_close(target(image()), source(image()))


WINDOWS = dict(with_cls_token=False, out_type='featmap', window_size=2, global_attn_indices=(1,))


def test_universal_mode_refuses_blocks_of_different_grids():
    with pytest.raises(ValueError, match=r"mode='universal'.*\(2, 2\) and \(4, 4\) patches"):
        backbone(mode='universal', kwargs=WINDOWS)


def test_relative_positions_are_refused():
    kwargs = dict(WINDOWS, use_rel_pos=True)
    with pytest.raises(ValueError, match='KArAt takes no relative positions.*use_rel_pos=False'):
        backbone(kwargs=kwargs)


def test_blocks_with_windows_have_an_operator_for_the_window():
    model = backbone(kwargs=WINDOWS)
    assert [block.attn.operator.num_tokens for block in model.blocks] == [4, 16, 4]
    for size in (32, 48):
        (y,) = model(image(size))
        assert y.shape == (2, 24, size // 8, size // 8) and y.isfinite().all()


def test_a_pretrained_classifier_loads_into_a_detector_with_windows(tmp_path):
    """As for ViTDet: class token left out, operators fitted to the window and to the whole grid."""
    source = backbone(16, kwargs=dict(out_type='cls_token'))  # 2 x 2 patches, a class token
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'pretrained.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrained.pth'))
    model = backbone(kwargs=dict(WINDOWS, init_cfg=init_cfg))
    model.init_weights()
    source = [block.attn.operator for block in source.blocks]
    target = [block.attn.operator for block in model.blocks]
    assert torch.equal(target[0].weight, source[0].weight[:, 1:])
    assert target[1].weight.shape[1] == 16
    torch.testing.assert_close(target[1].weight.sum(1), source[1].weight[:, 1:].sum(1))


def test_other_image_sizes_run_where_the_operator_can_be_interpolated():
    model = backbone()
    (y,) = model(image(48))
    assert y.shape == (2, 24) and y.isfinite().all()
    with pytest.raises(ValueError, match=r'\(4, 4\) patches and got one of \(6, 6\)'):
        backbone(basis='wavelet')(image(48))


def test_recomputed_blocks_give_the_same_gradients():
    for basis in ('fourier', 'wavelet'):
        gradients = []
        for with_cp in (False, True):
            model = backbone(basis=basis, mode='universal', kwargs=dict(with_cp=with_cp))
            loss = model(image())[0].square().sum()
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('ffn', ['GRKAN', 'MLP'])
def test_a_training_step_reaches_every_weight(ffn):
    model = backbone(base='silu', num_karat_heads=1, kwargs=dict(ffn_cfg=dict(type=ffn)))
    model(image())[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_softmax_is_what_other_heads_have():
    module = attention(num_karat_heads=1)
    softmax = SoftmaxAttention(24, 3).double()
    softmax.load_state_dict(
        {key: value for key, value in module.state_dict().items() if 'operator' not in key}
    )
    q, k, v = module.project(tokens())
    got, want = module.attend(q, k, v, GRID), softmax.attend(q, k, v, GRID)
    torch.testing.assert_close(got[:, 1:], want[:, 1:])
    assert not torch.allclose(got[:, :1], want[:, :1])
    torch.testing.assert_close(want, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize('mode', ['blockwise', 'universal'])
def test_the_optimizer_constructor_gives_the_operator_its_own_learning_rate(mode):
    model = backbone(mode=mode)
    optimizer = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(custom_keys={'attn.operator': dict(lr_mult=0.1)}),
        ),
    ).optimizer
    names = {param: name for name, param in model.named_parameters()}
    rates = {
        names[param]: group['lr'] for group in optimizer.param_groups for param in group['params']
    }
    assert rates.keys() == set(names.values())
    for name, rate in rates.items():
        assert rate == pytest.approx(1e-4 if '.attn.operator.' in name else 1e-3), name
