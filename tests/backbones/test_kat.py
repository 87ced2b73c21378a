import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope, Registry
from timm.models.vision_transformer import VisionTransformer, vit_tiny_patch16_224
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.fits import get_fit
from kat_mm.layers import GRKAN, MLP
from kat_mm.layers.init import squared_gain

SMALL = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)


def small(**kwargs) -> KAT:
    """4 blocks of width 32, 4 x 4 patches of 8 pixels."""
    return KAT(**{'arch': SMALL, 'img_size': 32, 'patch_size': 8, **kwargs})


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter away from its special start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)
    return model


def images(height=32, width=32, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


# Size and layout


@pytest.mark.parametrize(
    'arch, ffn, count',
    [
        ('tiny', 'GRKAN', 5_718_328),
        ('small', 'GRKAN', 22_051_576),
        ('base', 'GRKAN', 86_568_568),
        ('tiny', 'MLP', 5_717_416),
        ('small', 'MLP', 22_050_664),
        ('base', 'MLP', 86_567_656),
    ],
)
def test_parameters_with_a_head_of_1000_classes_are_as_many_as_published(arch, ffn, count):
    model = KAT(arch, ffn_cfg=dict(type=ffn))
    head = nn.Linear(model.embed_dims, 1000)
    assert sum(p.numel() for m in (model, head) for p in m.parameters()) == count


def test_large_is_the_large_vision_transformer():
    model = KAT('large', out_indices=0, ffn_cfg=dict(type='MLP'))
    block = sum(p.numel() for p in model.blocks[0].parameters())
    rest = sum(p.numel() for p in model.parameters()) - block
    # timm's vit_large_patch16_224 without its head; the last norm belongs to the last block
    assert rest + 24 * block + 2 * 1024 == 304_326_632 - 1025 * 1000


def test_state_dict_has_the_official_keys_and_shapes():
    c, expected = 192, {}
    expected['cls_token'] = (1, 1, c)
    expected['pos_embed'] = (1, 197, c)
    expected['patch_embed.proj.weight'] = (c, 3, 16, 16)
    expected['patch_embed.proj.bias'] = (c,)
    for i in range(12):
        for norm in ('norm1', 'norm2'):
            expected[f'blocks.{i}.{norm}.weight'] = expected[f'blocks.{i}.{norm}.bias'] = (c,)
        for linear, shape in {
            'attn.qkv': (3 * c, c),
            'attn.proj': (c, c),
            'mlp.fc1': (4 * c, c),
            'mlp.fc2': (c, 4 * c),
        }.items():
            expected[f'blocks.{i}.{linear}.weight'] = shape
            expected[f'blocks.{i}.{linear}.bias'] = shape[:1]
        for act in ('act1', 'act2'):
            expected[f'blocks.{i}.mlp.{act}.weight_numerator'] = (1, 6)
            expected[f'blocks.{i}.mlp.{act}.weight_denominator'] = (8, 4)
    expected['norm.weight'] = expected['norm.bias'] = (c,)
    state = KAT('tiny').state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


# Numbers


def test_with_mlp_and_the_same_weights_it_is_timms_vit_tiny():
    torch.manual_seed(0)
    theirs = vit_tiny_patch16_224(num_classes=0).eval()
    ours = KAT('tiny', out_type='featmap', ffn_cfg=dict(type='MLP')).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(224, 224, batch=1)
    with torch.no_grad():
        want = theirs.forward_features(x)
        (got,) = ours(x)
        ours.out_type = 'cls_token'
        (cls_token,) = ours(x)
    torch.testing.assert_close(got.flatten(2).mT, want[:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cls_token, want[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('with_cls_token', [True, False])
@pytest.mark.parametrize('final_norm', [True, False])
def test_each_output_is_that_block_of_timms_model(with_cls_token, final_norm):
    theirs = VisionTransformer(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        num_classes=0,
        class_token=with_cls_token,
        global_pool='token' if with_cls_token else 'avg',
        fc_norm=False,
        final_norm=final_norm,
    )
    theirs = randomise(theirs).eval()
    ours = small(
        img_size=(32, 48),
        out_indices=(0, 2, -1),
        out_type='featmap',
        with_cls_token=with_cls_token,
        final_norm=final_norm,
        ffn_cfg=dict(type='MLP'),
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(32, 48)
    got = ours(x)
    want = theirs.forward_intermediates(x, indices=[0, 2, 3], intermediates_only=True)
    want[-1] = theirs.norm(want[-1].movedim(1, -1)).movedim(-1, 1)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('out_type', ['featmap', 'cls_token', 'avg_featmap'])
def test_out_type_decides_the_shape_of_each_output(out_type):
    outputs = small(out_indices=(1, 3), out_type=out_type)(images(40, 24))
    shape = (2, 32, 5, 3) if out_type == 'featmap' else (2, 32)
    assert isinstance(outputs, tuple) and [o.shape for o in outputs] == [shape, shape]


def test_maps_are_contiguous_as_mmcvs_roi_align_needs_them():
    assert all(m.is_contiguous() for m in small(out_indices=(1, 3), out_type='featmap')(images()))


def test_avg_featmap_is_the_mean_of_the_featmap():
    model = randomise(small(out_type='featmap'))
    (featmap,) = model(images())
    model.out_type = 'avg_featmap'
    torch.testing.assert_close(model(images())[0], featmap.mean(dim=(2, 3)))


def test_every_parameter_takes_part():
    model = small(out_indices=(0, 1, 2, 3), out_type='featmap')
    sum(output.square().sum() for output in model(images())).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_attention_and_feed_forward_configs_reach_the_blocks():
    model = small(
        attn_cfg=dict(type='SoftmaxAttention', qkv_bias=False, proj_drop_rate=0.25),
        ffn_cfg=dict(type='GRKAN', num_groups=4, act_init=('identity', 'gelu'), drop_rate=0.5),
        drop_rate=0.125,
    )
    for block in model.blocks:
        assert block.attn.qkv.bias is None and block.attn.proj_drop.p == 0.25
        assert block.mlp.act2.weight_denominator.shape == (4, 4)
        assert block.mlp.act2.fit.name == 'gelu'
        assert block.mlp.drop1.p == 0.5
    assert model.drop_after_pos.p == 0.125


def test_dropout_after_the_position_embedding_acts_in_training():
    model = small(drop_rate=1.0, final_norm=False, out_type='avg_featmap')
    assert torch.equal(model(images())[0], model(images() * 2)[0])


# Input sizes


@pytest.mark.parametrize('size', [(32, 32), (64, 32), (16, 80), (33, 47), (5, 3)])
def test_input_of_any_size_gives_a_map_of_its_own_size(size):
    (featmap,) = small(out_type='featmap')(images(*size))
    assert featmap.shape == (2, 32, -(-size[0] // 8), -(-size[1] // 8))


def test_input_that_the_patch_does_not_divide_is_padded_at_the_right_and_the_bottom():
    model = randomise(small(out_type='featmap'))
    x = images(27, 42)
    assert torch.equal(model(x)[0], model(F.pad(x, (0, 6, 0, 5)))[0])


def test_other_input_size_equals_a_model_made_for_it_with_the_same_checkpoint():
    model = randomise(small(out_type='featmap'))
    made_for_it = small(img_size=(48, 24), out_type='featmap')
    made_for_it.load_state_dict(model.state_dict())
    assert made_for_it.pos_embed.shape == (1, 1 + 6 * 3, 32)
    torch.testing.assert_close(model(images(48, 24)), made_for_it(images(48, 24)))


@pytest.mark.parametrize('with_cls_token', [True, False])
def test_position_embedding_of_another_size_is_resized_on_loading(with_cls_token):
    extra = int(with_cls_token)
    options = dict(with_cls_token=with_cls_token, out_type='featmap')
    state = randomise(small(**options)).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    model = nn.ModuleDict({'backbone': small(img_size=(56, 40), **options)})
    model.load_state_dict({f'backbone.{key}': value for key, value in state.items()})
    grid = before['pos_embed'][:, extra:].mT.unflatten(2, (4, 4))
    want = F.interpolate(grid, size=(7, 5), mode='bicubic').flatten(2).mT
    got = model['backbone'].pos_embed
    torch.testing.assert_close(got[:, extra:], want)
    assert torch.equal(got[:, :extra], before['pos_embed'][:, :extra])
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_a_grid_that_is_no_square_needs_no_metadata_where_the_size_is_the_same():
    model = randomise(small(img_size=(16, 64)))  # 2 x 8 patches, which could be 4 x 4
    other = small(img_size=(16, 64))
    other.load_state_dict(dict(model.state_dict()))
    assert torch.equal(other.pos_embed, model.pos_embed)


# out_indices


@pytest.mark.parametrize(
    'given, resolved', [(-1, (3,)), (0, (0,)), ((1, -1), (1, 3)), ([0, -3], (0, 1))]
)
def test_negative_out_indices_count_from_the_end(given, resolved):
    model = small(out_indices=given)
    assert model.out_indices == resolved and len(model(images())) == len(resolved)


def test_blocks_behind_the_last_output_are_not_built():
    assert len(small(out_indices=(0, 1)).blocks) == 2


# Regularisation and training


def test_drop_path_rises_linearly_over_the_whole_depth():
    for out_indices, depth in ((-1, 4), (1, 2)):
        blocks = small(drop_path_rate=0.3, out_indices=out_indices).blocks
        rates = [(block.drop_path1.rate, block.drop_path2.rate) for block in blocks]
        assert rates == [pytest.approx((rate, rate)) for rate in (0.0, 0.1, 0.2, 0.3)[:depth]]


def test_drop_path_leaves_out_whole_samples_of_a_branch_and_only_in_training():
    torch.manual_seed(0)
    block = randomise(small(drop_path_rate=0.5)).blocks[3]
    x = torch.randn(64, 4, 32)
    y = block.train()(x, (2, 2))
    unchanged = (y == x).flatten(1).all(dim=1)
    # Both branches are left out with probability 1/4.
    assert 4 <= unchanged.sum() <= 32
    y = block.eval()(x, (2, 2))
    assert not (y == x).flatten(1).all(dim=1).any()


def test_recomputed_blocks_give_the_same_gradients_with_drop_path():
    plain = randomise(small(drop_path_rate=0.5, drop_rate=0.1, out_type='featmap'))
    recomputed = small(drop_path_rate=0.5, drop_rate=0.1, out_type='featmap', with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    calls = []
    for block in recomputed.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (plain, recomputed):
        torch.manual_seed(3)
        model(images(batch=8))[0].square().sum().backward()
    assert len(calls) == 8  # each of 4 blocks in forward and again in backward
    for (name, p), q in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


def test_nothing_is_recomputed_without_gradients():
    model, calls = small(with_cp=True), []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(images())
    assert calls == [1]


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages_get_no_gradient_and_stay_in_eval_mode(frozen_stages):
    model = small(frozen_stages=frozen_stages, drop_rate=0.1, num_registers=2, pre_norm=True)
    model.train()
    frozen = set()
    if frozen_stages >= 0:
        frozen = {'cls_token', 'reg_token', 'pos_embed', 'patch_embed', 'drop_after_pos'}
        frozen |= {'norm_pre', *(f'blocks.{i}' for i in range(frozen_stages))}
    if frozen_stages == 4:  # as mmpretrain's
        frozen.add('norm')

    def is_frozen(name):
        return any(name == part or name.startswith(part + '.') for part in frozen)

    for name, module in model.named_modules():
        assert module.training != is_frozen(name), name
    model(images().requires_grad_())[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == is_frozen(name), name
    assert not any(module.training for module in model.eval().modules())


def test_layer_depth_counts_from_the_embeddings_to_what_is_behind_the_blocks():
    model = small()
    for name, depth in {
        'backbone.cls_token': 0,
        'backbone.pos_embed': 0,
        'backbone.reg_token': 0,
        'backbone.norm_pre.weight': 0,
        'backbone.patch_embed.proj.weight': 0,
        'backbone.blocks.0.norm1.weight': 1,
        'backbone.blocks.3.mlp.act1.weight_numerator': 4,
        'backbone.norm.bias': 5,
        'decode_head.conv_seg.weight': 5,
    }.items():
        assert model.get_layer_depth(name, 'backbone.') == (depth, 6)
    assert model.get_layer_depth('blocks.10.attn.qkv.weight')[0] == 11
    assert small(out_indices=1).get_layer_depth('norm.weight') == (3, 4)


# Initialisation


@pytest.mark.parametrize('ffn', [GRKAN, MLP])
def test_init_weights_fills_every_linear_map(ffn):
    model = small(ffn_cfg=dict(type=ffn.__name__))
    before = copy.deepcopy(model)
    model.init_weights()
    for (name, now), old in zip(model.named_modules(), before.modules(), strict=True):
        if isinstance(now, nn.Linear | nn.Conv2d):
            assert not torch.equal(now.weight, old.weight), name
            assert (now.bias == 0).all(), name


def test_a_second_initialisation_leaves_the_weights_alone():
    model = small()
    model.init_weights()
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_init_weights_follows_the_mode_of_attention_and_feed_forward():
    torch.manual_seed(0)
    arch = dict(embed_dims=96, num_layers=1, num_heads=3, feedforward_channels=384)

    def block(**kwargs):
        model = KAT(arch, **kwargs)
        model.init_weights()
        assert model.patch_embed.proj.weight.std().item() == pytest.approx(0.02, rel=0.03)
        return model.blocks[0]

    default = block()
    value_times_proj = default.attn.qkv.weight[192:].T @ default.attn.proj.weight.T
    assert value_times_proj.diagonal().mean().item() == pytest.approx(-0.4, abs=0.03)
    gain = squared_gain(get_fit('swish'))
    assert default.mlp.fc2.weight.var().item() == pytest.approx(gain / 384, rel=0.03)
    deit = block(
        attn_cfg=dict(type='SoftmaxAttention', init='trunc_normal'),
        ffn_cfg=dict(type='GRKAN', init='trunc_normal'),
    )
    for linear in (deit.attn.qkv, deit.attn.proj, deit.mlp.fc1, deit.mlp.fc2):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_embeddings_start_with_std_of_deit():
    torch.manual_seed(0)
    model = KAT('tiny', out_indices=0)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.2)


# Registry


@pytest.mark.parametrize('library', ['mmseg', 'mmdet', 'mmpretrain'])
def test_downstream_registry_finds_the_backbone(library):
    models = pytest.importorskip(f'{library}.registry').MODELS
    if library == 'mmdet':  # whose models need mmcv's compiled operators
        pytest.importorskip('mmcv.ops', exc_type=ImportError)
    model = models.build(dict(type='KAT', arch=SMALL, img_size=32, patch_size=8))
    assert type(model) is KAT


def test_blocks_are_this_projects_also_where_another_library_has_the_same_names():
    elsewhere = Registry('model', parent=MODELS, scope='elsewhere')
    elsewhere.register_module('MLP', module=nn.Identity)
    try:
        with DefaultScope.overwrite_default_scope('elsewhere'):
            model = elsewhere.build(dict(type='KAT', arch=SMALL, ffn_cfg=dict(type='MLP')))
    finally:
        del MODELS.children['elsewhere']
    assert type(model.blocks[0].mlp) is MLP


# Wrong arguments


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(arch='smal'), ["arch='smal'", "did you mean 'small'", 'tiny', 'embed_dims']),
        (dict(arch=dict(embed_dims=32)), ['embed_dims', 'num_heads', 'feedforward_channels']),
        (dict(arch={**SMALL, 'depth': 3}), ['depth', 'num_layers']),
        (dict(arch={**SMALL, 'num_heads': 5}), ['num_heads=5', 'embed_dims=32']),
        (dict(out_type='raw'), ["out_type='raw'", 'featmap', 'cls_token', 'avg_featmap']),
        (dict(with_cls_token=False), ['cls_token', 'with_cls_token=True']),
        (dict(out_indices=4), ['out_indices=(4,)', '0 to 3']),
        (dict(out_indices=-5), ['out_indices=(-5,)', '-4']),
        (dict(out_indices=()), ['out_indices=()']),
        (dict(out_indices=(3, 1)), ['out_indices=(3, 1)', 'rise']),
        (dict(out_indices=(3, -1)), ['out_indices=(3, -1)', 'repeats']),
        (dict(frozen_stages=5), ['frozen_stages=5', '4']),
        (dict(frozen_stages=-2), ['frozen_stages=-2', '-1']),
        (dict(drop_path_rate=1.5), ['drop_path_rate=1.5', '[0, 1)']),
        (dict(img_size=0), ['img_size=0', '(height, width)']),
        (dict(img_size='32'), ["img_size='32'", '(height, width)']),
        (dict(img_size=512, patch_size=14), ['img_size=512', 'patch_size=14', 'choose 518']),
        (dict(img_size=(32, 44)), ['img_size=(32, 44)', 'patch_size=8', '[32, 48]']),
        (dict(num_registers=-1), ['num_registers=-1', 'from 0 to']),
        (dict(pos_interpolation='area'), ["pos_interpolation='area'", 'bicubic_antialias']),
        (dict(norm_intermediate=True, final_norm=False), ['final_norm=True']),
        (dict(output_cls_token=True), ['output_cls_token=True', "out_type='featmap'"]),
        (
            dict(attn_cfg=dict(type='SoftmaxAttention', qkv_bias='q')),
            ["qkv_bias='q'", 'True or False', "'qv'"],
        ),
        (dict(patch_size=0), ['patch_size=0', 'from 1 to']),
        (dict(in_channels=0), ['in_channels=0', 'from 1 to']),
        (dict(ffn_cfg='MLP'), ["ffn_cfg='MLP'", "dict(type='GRKAN')"]),
        (dict(attn_cfg=dict(init='mimetic')), ['attn_cfg=', "dict(type='SoftmaxAttention')"]),
        (dict(ffn_cfg=dict(type='GRKAN', order=(5,))), ['order=(5,)', '(5, 4)']),
        (dict(ffn_cfg=dict(type='GRKAN', num_groups=5)), ['num_groups=5', '32 channels']),
        (dict(ffn_cfg=dict(type='GRKAN', act_init=('identity', 'swich'))), ["'swich'", 'swish']),
        (dict(ffn_cfg=dict(type='GRKAN', init='he')), ["init='he'", 'variance_preserving']),
        (dict(attn_cfg=dict(type='SoftmaxAttention', init='he')), ["init='he'", 'mimetic']),
    ],
)
def test_wrong_value_is_refused_with_its_name_and_what_would_fit(arguments, words):
    with pytest.raises(ValueError) as raised:
        small(**arguments)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize('argument', ['ffn_cfg', 'attn_cfg'])
@pytest.mark.parametrize('kind, word', [('GRKAM', "did you mean 'GRKAN'"), ('KAT', 'no part')])
def test_unknown_type_of_a_part_is_named(argument, kind, word):
    with pytest.raises(ValueError, match=f'{argument} has type={kind!r}.*{word}'):
        small(**{argument: dict(type=kind)})


def test_misspelt_argument_is_named():
    with pytest.raises(TypeError, match="'drop_path'"):
        MODELS.build(dict(type='KAT', arch=SMALL, drop_path=0.1))


@pytest.mark.parametrize('parts', [dict(), dict(ffn_cfg=dict(type='MLP'))], ids=['GRKAN', 'MLP'])
def test_an_exported_model_takes_any_batch(parts):
    model = small(**parts).eval()
    batch = torch.export.Dim('batch')
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},)).module()
    more = torch.cat([images(), images() + 1])
    for got, want in zip(program(more), model(more), strict=True):
        torch.testing.assert_close(got, want)


def test_the_final_norm_is_called_as_a_module():
    model, calls = small(), []
    model.norm.register_forward_hook(lambda *_: calls.append(1))
    model(images())
    assert calls == [1]


@pytest.mark.gpu
@pytest.mark.parametrize(
    'parts',
    [
        dict(ffn_cfg=dict(type='GRKAN')),
        dict(ffn_cfg=dict(type='MLP')),
        dict(attn_cfg=dict(type='KArAt')),
        dict(window_size=2, global_attn_indices=(3,), use_rel_pos=True, with_cls_token=False),
    ],
    ids=['GRKAN', 'MLP', 'KArAt', 'ViTDet'],
)
def test_a_training_step_can_be_captured_as_a_cuda_graph(parts):
    """Kernels run on the current stream, and nothing waits for them."""
    model = randomise(small(out_type='featmap', **parts)).cuda()
    batch = images().cuda()

    def step():
        with torch.autocast('cuda', torch.bfloat16):
            loss = model(batch)[0].float().square().mean()
        loss.backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.zero_grad()
            step()
    torch.cuda.current_stream().wait_stream(stream)
    model.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    batch.copy_(images().flip(0) * 2)
    graph.replay()
    captured = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    step()
    for (name, parameter), gradient in zip(model.named_parameters(), captured, strict=True):
        assert gradient.any(), name
        torch.testing.assert_close(gradient, parameter.grad, msg=name)


# What heads read


def test_maps_with_their_class_tokens_are_what_mmsegs_dpt_reads():
    from mmseg.models.decode_heads import DPTHead

    options = dict(out_indices=(0, 1, 2, 3), out_type='featmap', num_registers=2)
    model = randomise(small(**options, output_cls_token=True)).eval()
    outputs = model(images())
    model.output_cls_token = False
    maps = model(images())
    model.out_type = 'cls_token'
    tokens = model(images())
    for (featmap, cls_token), want_map, want_token in zip(outputs, maps, tokens, strict=True):
        assert torch.equal(featmap, want_map) and torch.equal(cls_token, want_token)
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = DPTHead(
            in_channels=(32, 32, 32, 32),
            in_index=(0, 1, 2, 3),
            input_transform='multiple_select',
            channels=16,
            embed_dims=32,
            post_process_channels=[8, 16, 24, 32],
            num_classes=3,
            readout_type='project',
            norm_cfg=dict(type='BN'),
            patch_size=8,
        )
    assert head(outputs).shape == (2, 3, 32, 32)


@pytest.mark.parametrize('norm_intermediate', [True, False])
def test_the_final_norm_is_that_of_all_outputs_or_of_the_last_alone(norm_intermediate):
    model = randomise(
        small(out_indices=(1, 3), out_type='featmap', norm_intermediate=norm_intermediate)
    )
    x, grid = model.embed(images())
    for stop, got in zip((2, 4), model(images()), strict=True):
        y = model.run_blocks(x, grid, 0, stop)
        y = model.norm(y) if norm_intermediate or stop == 4 else y
        torch.testing.assert_close(got.flatten(2).mT, y[:, 1:])
    # Of blocks that are not the last one the norm is a part, too.
    first = small(out_indices=1, norm_intermediate=norm_intermediate)
    assert isinstance(first.norm, nn.LayerNorm) == norm_intermediate


def test_registers_take_part_and_are_not_returned():
    model = randomise(small(out_type='featmap', num_registers=3))
    x, grid = model.embed(images())
    assert x.shape == (2, 1 + 3 + 16, 32) and torch.equal(
        x[:, 1:4], model.reg_token.expand(2, -1, -1)
    )
    before = model(images())[0]
    assert before.shape == (2, 32, 4, 4)
    nn.init.zeros_(model.reg_token)
    assert not torch.allclose(model(images())[0], before)


def test_without_positions_patches_are_a_set():
    model = randomise(small(out_type='featmap', with_pos_embed=False)).eval()
    x = images()
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)
    turned = patches.flip(2).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    torch.testing.assert_close(model(turned)[0].flip(2), model(x)[0])
    assert 'pos_embed' not in model.state_dict()
    with torch.no_grad():
        rotary = dict(type='SoftmaxAttention', rope=dict())
        model = randomise(small(out_type='featmap', with_pos_embed=False, attn_cfg=rotary)).eval()
        assert not torch.allclose(model(turned)[0].flip(2), model(x)[0])


@pytest.mark.parametrize(
    'options',
    [
        dict(
            with_pos_embed=False,
            attn_cfg=dict(type='SoftmaxAttention', qkv_bias='qv', rope=dict(), qk_norm=True),
            ffn_cfg=dict(type='GatedGRKAN'),
        ),
        dict(
            window_size=3,
            global_attn_indices=(1,),
            attn_cfg=dict(
                type='SoftmaxAttention',
                rope=dict(coordinates='indices', reference_size=(16, 16), rotation='pairs'),
            ),
            ffn_cfg=dict(type='SwiGLU', inner_norm=True),
        ),
    ],
    ids=['turned by halves', 'turned by pairs in windows'],
)
@torch.no_grad()
def test_what_foundation_models_have_is_traced_and_runs_in_bfloat16(options):
    settings = dict(out_type='featmap', num_registers=2, layer_scale=0.5, pre_norm=True)
    model = randomise(small(**settings, **options)).eval()
    x = images(40, 56)
    (want,) = model(x)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x)[0], want)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x)[0], want)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (half,) = model(x)
    assert 0 < (half - want).norm() < 0.02 * want.norm()
