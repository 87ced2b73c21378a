"""The attention module, and the backbone that is built with it."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper

from kat_mm.backbones import KAT
from kat_mm.layers import KArAt, SoftmaxAttention

GRID = (2, 3)
SMALL = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)


def attention(**kwargs):
    torch.manual_seed(0)
    options = dict(num_heads=3, num_extra_tokens=1, rank=4)
    module = KArAt(24, grid_size=GRID, **{**options, **kwargs})
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
    softmax = (q[:, karat:] @ k[:, karat:].mT / 8**0.5).softmax(dim=-1)
    y = torch.cat([weights, softmax], dim=1) @ v
    return y.transpose(1, 2).flatten(2) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize('modular', ['phi1_w2', 'w1_phi2', False])
@pytest.mark.parametrize('heads', [None, 1, 'mixed', 2])
@pytest.mark.parametrize('project_l1', [False, True])
def test_output_and_gradients_equal_the_operator_head_by_head(modular, heads, project_l1):
    module = attention(modular=modular, num_karat_heads=heads, project_l1=project_l1)
    if not modular:  # functions of functions oscillate: smaller ones
        for parameter in module.operator.parameters():
            parameter.data *= 0.2
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
        (dict(modular='phi2'), ["modular='phi2'", 'phi1_w2', 'w1_phi2', 'False']),
        (dict(modular=None), ['modular=None', 'phi1_w2', 'False']),
        (dict(modular=0), ['modular=0', 'phi1_w2', 'False']),
        (dict(depth=0), ['depth=0', 'from 1 to']),
        (dict(depth=True), ['depth=True', 'whole number']),
        (dict(depth=1), ["modular='phi1_w2'", 'depth of 2', 'modular=False']),
        (dict(depth=1, modular='w1_phi2'), ["modular='w1_phi2'", 'depth of 2']),
        (dict(project_l1='l2'), ["project_l1='l2'", 'hidden', 'True']),
        (dict(project_l1='hidden', modular='w1_phi2'), ["modular='w1_phi2'", 'phi1_w2']),
        (dict(project_l1='hidden', modular=False), ['modular=False', 'project_l1=True']),
        (dict(function_init='unit'), ["function_init='unit'", 'normal', 'scaled']),
        (dict(mode='shared'), ["mode='shared'", 'blockwise', 'universal']),
        (dict(rank=8), ['rank=8', 'from 1 to 7']),
        (dict(rank=0), ['rank=0', 'from 1 to 7']),
        (dict(rank=2.5), ['rank=2.5', 'whole number']),
        (dict(num_extra_tokens=-1), ['num_extra_tokens=-1', 'from 0 to']),
        (dict(freeze_basis='yes'), ["freeze_basis='yes'", 'True or False']),
        (dict(num_karat_heads=4), ['num_karat_heads=4', 'num_heads=3']),
        (dict(num_karat_heads=0), ['num_karat_heads=0', 'between 1']),
        (dict(num_karat_heads='half'), ["num_karat_heads='half'", 'mixed']),
        (dict(num_heads=1, num_karat_heads='mixed'), ["'mixed'", 'two heads']),
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


# Table 13 of the paper (v3): millions of parameters of the attention's activation.
@pytest.mark.parametrize(
    'arch, grid, mode, published',
    [
        ('tiny', 3, 'blockwise', 0.76),
        ('tiny', 3, 'universal', 0.06),
        ('small', 3, 'blockwise', 1.53),
        ('small', 3, 'universal', 0.13),
        ('base', 1, 'blockwise', 1.70),
        ('base', 1, 'universal', 0.14),
    ],
)
def test_published_counts_are_those_with_scales(arch, grid, mode, published):
    blocks, heads = 12 if mode == 'blockwise' else 1, dict(tiny=3, small=6, base=12)[arch]
    counts = {}
    for scales in (False, True):
        attn_cfg = dict(type='KArAt', basis=dict(type='fourier', grid=grid), mode=mode)
        with torch.device('meta'):
            model = KAT(arch, ffn_cfg=dict(type='MLP'), attn_cfg=dict(attn_cfg, scales=scales))
        counts[scales] = operator_parameters(model)
        assert counts[scales] == blocks * heads * 197 * 12 * (2 * grid + 1 + 2 * scales)
    # Their last digit is not always rounded.
    assert counts[True] / 1e6 == pytest.approx(published, abs=0.01)
    if mode == 'blockwise':
        assert counts[False] / 1e6 < published - 0.1


@pytest.mark.parametrize('arch, heads', [('tiny', 1), ('small', 3), ('base', 6)])
def test_mixed_heads_are_1_3_and_6_of_the_published_sizes(arch, heads):
    with torch.device('meta'):
        attn_cfg = dict(type='KArAt', num_karat_heads='mixed')
        model = KAT(arch, ffn_cfg=dict(type='MLP'), attn_cfg=attn_cfg)
    for block in model.blocks:
        assert block.attn.num_karat_heads == heads
        assert block.attn.operator.layers[1].weight.shape == (heads, 197, 12)


@pytest.mark.parametrize(
    'depth, modular', [(1, False), (2, 'phi1_w2'), (2, False), (3, 'w1_phi2'), (3, False)]
)
def test_blocks_of_a_universal_model_share_one_operator_that_learns_from_all(depth, modular):
    options = dict(depth=depth, modular=modular, function_init='scaled')
    model = backbone(mode='universal', **options).double()
    assert len({id(block.attn.operator) for block in model.blocks}) == 1
    # The same weights in blocks of their own: the sum of their gradients.
    apart = backbone(**options).double()
    apart.load_state_dict(model.state_dict())
    assert operator_parameters(model) == operator_parameters(apart) // 3
    got, *each = (
        torch.autograd.grad(built(image().double())[0].sum(), list(operator.parameters()))
        for built, operator in (
            (model, model.blocks[0].attn.operator),
            *((apart, block.attn.operator) for block in apart.blocks),
        )
    )
    for gradient, *gradients in zip(got, *each, strict=True):
        torch.testing.assert_close(gradient, sum(gradients), rtol=1e-6, atol=1e-8)


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
    assert torch.equal(target[0].layers[1].weight, source[0].layers[1].weight[:, 1:])
    target, source = (operators[1].layers[1].weight for operators in (target, source))
    assert target.shape[1] == 16
    torch.testing.assert_close(target.sum(1), source[:, 1:].sum(1))


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
    model = backbone(
        base='silu', scales=True, num_karat_heads=1, kwargs=dict(ffn_cfg=dict(type=ffn))
    )
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
