"""Checkpoints of other sizes, heads and architectures: resized, left out, or refused."""

import logging
import re
from collections import OrderedDict

import pytest
import timm
import torch
from mmengine.model import BaseModel, PretrainedInit
from mmpretrain.models import LoRAModel
from timm.layers import resample_patch_embed
from torch import nn
from torch.nn.utils import parametrize

from kat_mm.backbones import KAT, convert_for_model, load_pretrained
from kat_mm.backbones.pretrained import split_init_cfg
from kat_mm.checks.checkpoint import check_pretrained
from kat_mm.errors import UserError
from kat_mm.layers import resize_patch_embed, resize_pos_embed
from kat_mm.layers.rel_pos import resize_rel_pos

SMALL = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


def small(**kwargs) -> KAT:
    return KAT(**{'arch': SMALL, 'img_size': 32, 'patch_size': 8, **kwargs})


def file_of(state, folder):
    torch.save(state, folder / 'weights.pth')
    return folder / 'weights.pth'


@pytest.fixture
def log(caplog):
    with caplog.at_level(logging.INFO, 'kat_mm'):
        yield lambda: '\n'.join(record.getMessage() for record in caplog.records)


# Where the weights are in a file


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """What the official code would save of a small KAT, without head."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(value.shape, generator=generator)
        for key, value in small().state_dict().items()
    }


def head() -> dict[str, torch.Tensor]:
    return {'head.weight': torch.ones(1000, 16), 'head.bias': torch.ones(1000)}


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


def assert_holds(model: nn.Module, state: dict) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(own[key], value), key


LAYOUTS = {
    'plain': lambda s: s,
    'with the classification head': lambda s: {**s, **head()},
    'training checkpoint': lambda s: {'epoch': 3, 'arch': 'kat', 'state_dict': {**s, **head()}},
    'average alone': lambda s: {'state_dict_ema': OrderedDict(s)},
    'under model': lambda s: {'model': s, 'optimizer': {'state': {}}},
    'from distributed training': lambda s: {'state_dict': prefixed(s, 'module.')},
    'a segmentor of this project': lambda s: {
        'meta': {'epoch': 1},
        'state_dict': {**prefixed(s, 'backbone.'), 'decode_head.conv_seg.bias': torch.ones(3)},
    },
    'a distributed segmentor': lambda s: prefixed(s, 'module.backbone.'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_weights_are_found_in_each_layout(layout, trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(LAYOUTS[layout](trained), path)
    model = small()
    load_pretrained(model, path)
    assert_holds(model, trained)


def test_init_weights_loads_what_init_cfg_names(trained, tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save(trained, path)
    model = small(init_cfg=dict(type='Pretrained', checkpoint=path))
    model.init_weights()
    assert_holds(model, trained)


@pytest.mark.parametrize('kind', ['mmengine.Pretrained', PretrainedInit])
def test_the_scope_or_the_class_of_mmengines_initialiser_means_the_same(kind, trained, tmp_path):
    model = small(init_cfg=dict(type=kind, checkpoint=str(file_of(trained, tmp_path))))
    model.init_weights()
    assert_holds(model, trained)
    assert split_init_cfg(dict(type=kind, checkpoint=None)) == ([], [])


def test_other_initialisers_fill_over_the_start_of_the_blocks():
    constant = dict(type='Constant', layer=['Linear', 'Conv2d'], val=0.5, bias=7.0)
    model = small(init_cfg=constant)
    model.init_weights()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 4 * 2
    for module in linear:
        assert (module.weight == 0.5).all() and (module.bias == 7).all()


def test_checkpoint_is_the_last_word_among_several_init_cfgs(trained, tmp_path):
    del trained['blocks.1.mlp.fc2.bias']
    path = str(tmp_path / 'weights.pth')
    torch.save(trained, path)
    constant = dict(type='Constant', layer='Linear', val=0.5, bias=7.0)
    model = small(init_cfg=[dict(type='Pretrained', checkpoint=path), constant])
    model.init_weights()
    # What the checkpoint lacks keeps the initialisation of its own module.
    assert_holds(model, {**trained, 'blocks.1.mlp.fc2.bias': torch.zeros(16)})


def test_init_weights_of_a_model_loads_the_checkpoint_of_its_backbone(trained, tmp_path):
    class Segmentor(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = small(
                init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
            )

        def forward(self, inputs):
            return self.backbone(inputs)

    torch.save(trained, tmp_path / 'weights.pth')
    model = Segmentor()
    model.init_weights()
    assert_holds(model.backbone, trained)


def test_layout_that_shares_a_key_or_two_is_refused(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    shared = {key: trained[key] for key in ('cls_token', 'pos_embed')}
    torch.save({**shared, 'layers.0.ln1.weight': torch.ones(16)}, path)
    with pytest.raises(UserError, match='unknown layout'):
        load_pretrained(small(), path)


def test_prefix_names_the_part_of_a_model_that_is_loaded(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({**prefixed(trained, 'teacher.'), 'other.weight': torch.ones(1)}, path)
    cfg = dict(type='Pretrained', checkpoint=str(path), prefix='teacher.')
    model = small(init_cfg=cfg)
    model.init_weights()
    assert_holds(model, trained)


def test_grid_of_our_own_checkpoints_is_known_also_where_it_is_not_square(tmp_path):
    # 2 x 8 tokens, as many as 4 x 4
    wide = small(img_size=(16, 64))
    path = tmp_path / 'weights.pth'
    content = {'state_dict': nn.ModuleDict({'backbone': wide}).state_dict()}
    torch.save(content, path)
    square = small()
    load_pretrained(square, path)
    expected = resize_pos_embed(wide.pos_embed, (2, 8), (4, 4), 1)
    torch.testing.assert_close(square.pos_embed, expected)


def test_position_embedding_of_another_size_is_resized(trained, tmp_path):
    torch.save(trained, tmp_path / 'weights.pth')
    model, reference = small(img_size=(48, 40)), small(img_size=(48, 40))
    load_pretrained(model, tmp_path / 'weights.pth')
    reference.load_state_dict(trained)
    assert_holds(model, reference.state_dict())


def test_log_names_what_is_missing_and_left_out(trained, tmp_path, caplog):
    del trained['patch_embed.proj.bias']
    torch.save({**trained, **head(), 'surplus': torch.ones(1)}, tmp_path / 'weights.pth')
    with caplog.at_level(logging.INFO, 'kat_mm'):
        load_pretrained(small(), tmp_path / 'weights.pth', ignore='surplus')
    lines = {record.getMessage() for record in caplog.records}
    assert {'Missing: patch_embed.proj.bias', 'Left out: head.weight, head.bias, surplus'} <= lines


def test_weights_of_other_shapes_are_refused_and_named(trained, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(trained, path)
    with pytest.raises(UserError) as raised:
        load_pretrained(small(arch={**SMALL, 'feedforward_channels': 64}), path)
    for word in (str(path), 'blocks.0.mlp.fc1.weight', '[32, 16]', '[64, 16]', 'arch'):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    'content',
    [{'layer1.0.conv1.weight': torch.ones(1)}, {}, {'state_dict': {}}, head(), {'epoch': 3}],
)
def test_checkpoint_in_which_nothing_fits_is_refused_by_name(content, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(content, path)
    with pytest.raises(UserError, match='has no weights for the backbone') as raised:
        load_pretrained(small(), path)
    assert str(path) in str(raised.value)


WRAPPERS = ('_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'model.', 'net.0.')


@pytest.mark.parametrize('prefix', WRAPPERS)
def test_names_of_wrappers_are_taken_off(prefix, trained, tmp_path):
    model = small()
    load_pretrained(model, file_of(prefixed(trained, prefix), tmp_path))
    assert_holds(model, trained)


def test_a_compiled_backbone_or_block_inside_a_model_is_found(trained, tmp_path):
    names = {
        'backbone._orig_mod.'
        + re.sub(r'^(blocks.1.)', r'\1_checkpoint_wrapped_module.', key): value
        for key, value in trained.items()
    }
    model = small()
    load_pretrained(model, file_of({'state_dict': names}, tmp_path))
    assert_holds(model, trained)


@pytest.mark.parametrize('nested', [True, False])
def test_a_teacher_is_read_before_its_student(nested, trained, tmp_path, log):
    student = prefixed({key: value + 1 for key, value in trained.items()}, 'module.backbone.')
    teacher = prefixed(trained, 'backbone.')
    content = {'student': student, 'teacher': teacher, 'epoch': 3}
    if not nested:
        content = {'model': {**prefixed(student, 'student.'), **prefixed(teacher, 'teacher.')}}
    model = small()
    load_pretrained(model, file_of(content, tmp_path))
    assert_holds(model, trained)
    assert 'teacher' in log()


def test_one_of_several_backbones_must_be_named(trained, tmp_path):
    other = {key: value + 1 for key, value in trained.items()}
    path = file_of({**prefixed(trained, 'query.'), **prefixed(other, 'key.')}, tmp_path)
    with pytest.raises(UserError, match="several backbones, below 'query.' and 'key.'.*prefix="):
        load_pretrained(small(), path)
    with pytest.raises(UserError, match="no backbone below prefix='value.', but below 'query.'"):
        load_pretrained(small(), path, prefix='value.')
    model = small()
    load_pretrained(model, path, prefix='key.')
    assert_holds(model, other)


# What values are


def test_values_of_numpy_and_of_half_precision_are_converted(trained, tmp_path):
    for convert in (lambda v: v.half().float(), lambda v: v.bfloat16().float()):
        expected = {key: convert(value) for key, value in trained.items()}
        half = torch.float16 if convert(torch.tensor(1.001)) != 1 else torch.bfloat16
        model = small(img_size=48)
        load_pretrained(model, file_of({k: v.to(half) for k, v in expected.items()}, tmp_path))
        reference = small(img_size=48)
        load_pretrained(reference, file_of(expected, tmp_path))
        # Resized in float32, whatever the file has.
        assert_holds(model, reference.state_dict())
    for dtype in (torch.float32, torch.float16):
        arrays = {key: value.to(dtype).numpy() for key, value in trained.items()}
        model = small()
        load_pretrained(model, file_of(arrays, tmp_path))
        assert_holds(model, {key: value.to(dtype).float() for key, value in trained.items()})


def test_the_counter_of_averaged_models_is_no_weight(trained, tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(small())
    averaged.module.load_state_dict(trained)
    model = small()
    load_pretrained(model, file_of(averaged.state_dict(), tmp_path))
    assert_holds(model, trained)


@pytest.mark.parametrize(
    'value, words',
    [
        (
            torch.ones(48, 16).to(torch.float8_e4m3fn),
            'weights of torch.float8_e4m3fn, such as blocks.0.*quantised',
        ),
        (
            torch.quantize_per_tensor(torch.ones(48, 16), 0.1, 0, torch.qint8),
            'weights of torch.qint8, such as blocks.0.*quantised',
        ),
        (torch.ones(48, 16).to_sparse(), 'sparse tensors, such as blocks.0'),
        (torch.ones(48, 16, device='meta'), 'shapes alone .* such as blocks.0'),
        (
            torch.ones(48, 16, dtype=torch.int8),
            'weights of torch.int8, such as blocks.0.*quantised',
        ),
        (
            torch.full((48, 16), float('nan')),
            'weights that are NaN or infinite, in 1 of .* the first blocks.0.attn',
        ),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(value, words, trained, tmp_path):
    trained['blocks.0.attn.qkv.weight'] = value
    with pytest.raises(UserError, match=f'weights.pth has {words}'):
        load_pretrained(small(), file_of(trained, tmp_path))
    with pytest.raises(UserError, match=f'FILE has {words}'):
        convert_for_model(trained, Classifier(), 'FILE')


# Sizes


@pytest.mark.parametrize('size', [(8, 8), (14, 14), (32, 32), (16, 12)])
def test_patches_are_resized_as_timm_does(size):
    weight = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(
        resize_patch_embed(weight, size),
        resample_patch_embed(weight, list(size)),
        rtol=0,
        atol=1e-5,
    )


def test_larger_patches_of_a_resized_image_keep_their_embeddings():
    # FlexiViT, equation 5: <B x, w'> = <x, w>
    weight, patch = torch.randn(4, 3, 8, 8), torch.randn(1, 3, 8, 8)
    larger = nn.functional.interpolate(patch, size=(16, 16), mode='bicubic', antialias=True)
    torch.testing.assert_close(
        nn.functional.conv2d(larger, resize_patch_embed(weight, (16, 16))),
        nn.functional.conv2d(patch, weight),
        rtol=1e-4,
        atol=1e-4,
    )


def test_patches_and_positions_are_resized_on_load(tmp_path):
    source, model = small(), small(patch_size=4, img_size=48)
    load_pretrained(model, file_of(source.state_dict(), tmp_path))
    torch.testing.assert_close(
        model.patch_embed.proj.weight, resize_patch_embed(source.patch_embed.proj.weight, (4, 4))
    )
    torch.testing.assert_close(
        model.pos_embed, resize_pos_embed(source.pos_embed, (4, 4), (12, 12), 1)
    )


def test_a_grid_that_is_unknown_is_refused_unless_it_fits(tmp_path):
    source = timm.models.vision_transformer.VisionTransformer(
        img_size=(16, 40), patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2
    )
    path = file_of(source.state_dict(), tmp_path)
    with pytest.raises(UserError, match='for 10 patches, which make no square'):
        load_pretrained(small(), path)
    model = small(img_size=(16, 40))
    load_pretrained(model, path)
    assert torch.equal(model.pos_embed, source.pos_embed)


@pytest.mark.parametrize('has, wants', [(True, False), (False, True)])
def test_a_class_token_that_one_of_both_lacks(has, wants, tmp_path, log):
    source, model = (
        small(with_cls_token=token, out_type='featmap', img_size=size)
        for token, size in ((has, 32), (wants, 48))
    )
    path = file_of(source.state_dict(), tmp_path)
    if wants:
        with pytest.raises(UserError, match='lacks .* cls_token;.*with_cls_token.*ignore='):
            load_pretrained(model, path)
    load_pretrained(model, path, ignore='cls_token' if wants else ())
    patches = source.pos_embed[:, int(has) :]
    torch.testing.assert_close(
        model.pos_embed[:, int(wants) :], resize_pos_embed(patches, (4, 4), (6, 6), 0)
    )
    assert ('Missing: cls_token' in log()) == wants


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone.net.'])
def test_the_position_of_a_class_token_that_is_gone_is_left_out(prefix, tmp_path):
    """As in the detectors of detectron2 and mmdetection, which start from MAE."""
    settings = dict(with_cls_token=False, out_type='featmap', use_rel_pos=True, window_size=2)
    source, model = small(**settings), small(**settings, img_size=48)
    state = {**source.state_dict(), 'pos_embed': torch.randn(1, 1 + 14 * 14, 16)}
    load_pretrained(model, file_of({'model': prefixed(state, prefix)}, tmp_path))
    expected = resize_pos_embed(state['pos_embed'][:, 1:], (14, 14), (6, 6), 0)
    torch.testing.assert_close(model.pos_embed, expected)


@pytest.mark.parametrize('channels', [1, 2, 4, 6])
@torch.no_grad()
def test_weights_for_rgb_images_start_models_of_other_channels(channels, tmp_path, log):
    source, model = small(), small(in_channels=channels)
    load_pretrained(model, file_of(source.state_dict(), tmp_path))
    assert f'spread over {channels} channels' in log()
    if channels in (1, 3, 6):  # a grey image is one
        grey = torch.randn(2, 1, 32, 32)
        want = source(grey.expand(-1, 3, -1, -1))[0]
        torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1))[0], want)
    wrong = small(in_channels=4).state_dict()
    with pytest.raises(UserError, match=r'patch_embed.proj.weight: \[16, 4, 8, 8\]'):
        load_pretrained(small(in_channels=5), file_of(wrong, tmp_path))


def test_tables_that_are_parametrised_are_resized_too(tmp_path):
    class Double(nn.Module):
        def forward(self, table):
            return 2 * table

    def model(size):
        made = small(img_size=size, with_cls_token=False, out_type='featmap', use_rel_pos=True)
        for block in made.blocks:
            for name in ('rel_pos_h', 'rel_pos_w'):
                nn.init.normal_(getattr(block.attn, name))
                parametrize.register_parametrization(block.attn, name, Double())
        return made

    source, larger = model(32), model(48)
    load_pretrained(larger, file_of(source.state_dict(), tmp_path))
    torch.testing.assert_close(
        larger.blocks[1].attn.rel_pos_w, resize_rel_pos(source.blocks[1].attn.rel_pos_w, 6)
    )


# Parts


def test_adapters_that_were_not_merged_are_refused(trained, tmp_path):
    low_rank = dict.fromkeys(('lora_A.default.weight', 'lora_B.default.weight'), torch.ones(2, 2))
    extra = prefixed(low_rank, 'blocks.0.attn.qkv.')
    with pytest.raises(UserError, match=r'blocks\.\*\.attn\.qkv\.lora_A.*\(LoRA\) merged'):
        load_pretrained(small(), file_of({**trained, **extra}, tmp_path))
    model = small()
    load_pretrained(model, file_of({**trained, **extra}, tmp_path), ignore=r'.*\.lora_')
    assert_holds(model, trained)


def test_adapters_of_mmpretrain_train_a_backbone_that_starts_from_a_file(trained, tmp_path):
    cfg = dict(
        type='KAT',
        arch=SMALL,
        img_size=32,
        patch_size=8,
        init_cfg=dict(type='Pretrained', checkpoint=str(file_of(trained, tmp_path))),
    )
    model = LoRAModel(cfg, alpha=2, rank=2, targets=[dict(type='qkv')])
    plain, x = small(), torch.randn(2, 3, 32, 32)
    plain.load_state_dict(trained)
    torch.testing.assert_close(model(x), plain(x))  # adapters start at zero
    model(x)[0].sum().backward()
    learn = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(learn) == 2 * 2 and all('.attn.qkv.lora_' in name for name in learn)


def test_adapters_in_frozen_blocks_are_trained():
    cfg = dict(type='KAT', arch=SMALL, img_size=32, patch_size=8, frozen_stages=2)
    model = LoRAModel(cfg, alpha=2, rank=2, targets=[dict(type='blocks.0.attn.qkv')])
    model.train()
    learn = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learn) == 2 and all('blocks.0.attn.qkv.lora_' in name for name in learn)
    assert model.module.blocks[0].training and not model.module.blocks[1].training


def test_a_run_of_adapters_goes_on_from_what_it_saved(trained, tmp_path):
    cfg = dict(
        type='KAT',
        arch=SMALL,
        img_size=32,
        patch_size=8,
        init_cfg=dict(type='Pretrained', checkpoint=str(file_of(trained, tmp_path))),
    )

    def build():
        options = dict(alpha=2, rank=2, targets=[dict(type='qkv')])
        parts = dict(backbone=LoRAModel(cfg, **options), head=nn.Linear(16, 3))
        return nn.ModuleDict(parts)

    source, target, x = build(), build(), torch.randn(2, 3, 32, 32)
    check_pretrained(target)
    for parameter in source.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    saved = source.state_dict()
    assert all('.lora_' in key for key in saved if key.startswith('backbone.'))
    missing, unexpected = target.load_state_dict(
        convert_for_model(dict(state_dict=saved), target, 'FILE', strict=True), strict=False
    )
    assert not missing and not unexpected
    torch.testing.assert_close(target['backbone'](x), source['backbone'](x))
    assert torch.equal(target['head'].weight, source['head'].weight)
    with pytest.raises(UserError, match=r'lacks what the model saves.*lora_down'):
        convert_for_model(dict(state_dict=prefixed(trained, 'backbone.')), target, 'FILE')


def test_rational_functions_are_no_part_of_a_vit(trained, tmp_path):
    with pytest.raises(UserError, match=r"act1.weight_numerator.*ffn_cfg=dict\(type='GRKAN'\)"):
        load_pretrained(small(ffn_cfg=dict(type='MLP')), file_of(trained, tmp_path))


def test_layer_scale_is_multiplied_in_where_the_backbone_has_none(tmp_path):
    settings = dict(ffn_cfg=dict(type='MLP'))
    source = small(**settings, layer_scale=0.5)
    for block in source.blocks:
        nn.init.normal_(block.ls1.gamma)
        nn.init.normal_(block.ls2.gamma)
    path, x = file_of(source.state_dict(), tmp_path), torch.randn(2, 3, 32, 32)
    for model in (small(**settings), small(**settings, layer_scale=1e-5)):
        load_pretrained(model, path)
        torch.testing.assert_close(model(x), source(x))
    assert torch.equal(model.blocks[1].ls2.gamma, source.blocks[1].ls2.gamma)
    # And the other way round it is one.
    plain, model = small(**settings), small(**settings, layer_scale=1e-5)
    load_pretrained(model, file_of(plain.state_dict(), tmp_path))
    assert torch.equal(model(x)[0], plain(x)[0])


def test_the_backbone_is_as_it_was_where_a_file_is_refused(trained, tmp_path):
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError):
        load_pretrained(model, file_of({**trained, 'surplus': torch.ones(1)}, tmp_path))
    assert_holds(model, before)


def test_a_vit_leaves_rational_functions_at_their_start(tmp_path, log):
    vit = small(ffn_cfg=dict(type='MLP'))
    settings = dict(type='GRKAN', act_init=('identity', 'gelu'))
    path = file_of(vit.state_dict(), tmp_path)
    model = small(ffn_cfg=settings, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    fresh = small(ffn_cfg=settings)
    model.init_weights()
    for key, value in model.state_dict().items():
        expected = vit.state_dict().get(key, fresh.state_dict()[key])
        assert torch.equal(value, expected), key
    assert 'Missing' not in log() and 'start as act_init says' in log()


@pytest.mark.parametrize('act, told', [('swish', True), ('gelu', False)])
def test_a_vit_whose_function_is_not_kept_is_told(act, told, tmp_path, log):
    path = file_of(small(ffn_cfg=dict(type='MLP')).state_dict(), tmp_path)
    load_pretrained(small(ffn_cfg=dict(type='GRKAN', act_init=('identity', act))), path)
    assert ('act2 starts as swish, which no ViT was trained with' in log()) is told


def test_only_what_is_in_the_file_counts_as_loaded(tmp_path, log):
    settings = dict(with_cls_token=False, out_type='featmap')
    model = small(**settings, use_rel_pos=True)
    state = small(**settings).state_dict()
    load_pretrained(model, file_of(state, tmp_path))
    assert f'Loaded {len(state)} of {len(model.state_dict())} tensors' in log()
    assert len(state) + 4 == len(model.state_dict())


def test_blocks_that_are_not_built_are_no_surplus(tmp_path, log):
    load_pretrained(small(out_indices=0), file_of(small().state_dict(), tmp_path))
    assert 'Left over' not in log()


class Classifier(nn.Module):
    """As mmpretrain's ImageClassifier names its parts."""

    def __init__(self, classes=10, **kwargs):
        super().__init__()
        self.backbone = small(**kwargs)
        self.head = nn.Module()
        self.head.layers = nn.ModuleDict({'head': nn.Linear(16, classes)})


def test_an_official_file_fills_a_classifier_with_its_head():
    state = {**small().state_dict(), 'head.weight': torch.ones(10, 16), 'head.bias': torch.ones(10)}
    model = Classifier()
    missing, left_over = model.load_state_dict(convert_for_model(state, model, 'f'), strict=False)
    assert not missing and not left_over


def test_a_head_of_other_classes_is_left_out_with_a_word(log):
    state = Classifier(classes=1000).state_dict()
    model = Classifier()
    converted = convert_for_model(state, model, 'f')
    assert not [key for key in converted if key.startswith('head.')]
    assert 'Left out: head.layers.head.weight: [1000, 16] in the checkpoint' in log()
    with pytest.raises(UserError, match=r'head.weight: \[1000, 16\] .* \[10, 16\] in the model'):
        convert_for_model(state, model, 'f', strict=True)


def test_a_model_without_a_kat_gets_what_is_in_the_file():
    state = {'layer.weight': torch.ones(1)}
    assert convert_for_model({'state_dict': state}, nn.Linear(1, 1), 'f') == state


# What does not fit


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(embed_dims=32), 'is a KAT of width 16 with 2 blocks .* has width 32 and 2 blocks'),
        (dict(num_layers=3), 'is a KAT of width 16 with 2 blocks .* has width 16 and 3 blocks'),
        (dict(feedforward_channels=64), r'other shapes.*fc1.weight: \[32, 16\].*\[64, 16\]'),
    ],
)
def test_other_widths_and_depths_are_refused_with_both(changes, message, tmp_path):
    path = file_of(small().state_dict(), tmp_path)
    with pytest.raises(UserError, match=f'weights.pth .*{message}'):
        load_pretrained(small(arch={**SMALL, **changes}), path)


@pytest.mark.parametrize('part', ['blocks.1.', 'blocks.1.attn.qkv.weight', 'blocks.2.mlp.fc1'])
def test_a_file_that_lacks_a_part_of_a_block_is_refused(part, tmp_path):
    arch = dict(SMALL, num_layers=3)
    state = small(arch=arch).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(part)}
    with pytest.raises(UserError, match=f'incomplete: it lacks .* weights .* {part}'):
        load_pretrained(small(arch=arch), file_of(state, tmp_path))


def test_a_file_without_biases_of_the_attention_is_a_model_without(tmp_path, log):
    state = small(attn_cfg=dict(type='SoftmaxAttention', qkv_bias=False)).state_dict()
    model = small()
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.bias)  # whatever it was
    load_pretrained(model, file_of(state, tmp_path))
    assert 'Missing: blocks.*.attn.qkv.bias' in log()
    assert not any(block.attn.qkv.bias.any() for block in model.blocks)


def test_the_arch_of_the_file_is_named(tmp_path):
    path = file_of(timm.create_model('vit_small_patch16_224', img_size=32).state_dict(), tmp_path)
    with pytest.raises(UserError, match="a ViT of width 384 with 12 blocks.*arch='small'"):
        load_pretrained(KAT('tiny', img_size=32), path)


@pytest.mark.parametrize(
    'name, guess, key',
    [
        ('resnet18', 'ResNet', 'layer1.0.conv1.weight'),
        ('swin_tiny_patch4_window7_224', 'Swin', 'attn.relative_position_bias_table'),
        ('convnext_atto', 'ConvNeXt', 'conv_dw.weight'),
        ('beit_base_patch16_224', 'BEiT', 'blocks.0.attn.relative_position_bias_table'),
        ('cait_xxs24_224', 'CaiT', 'blocks.0.attn.proj_l.weight'),
        ('xcit_nano_12_p16_224', 'XCiT', 'blocks.0.attn.temperature'),
        ('pvt_v2_b0', 'PVT', 'stages.0.blocks.0.attn.kv.weight'),
    ],
)
def test_another_architecture_is_refused_with_a_guess_and_keys(name, guess, key, tmp_path):
    with torch.device('meta'):
        state = timm.create_model(name).state_dict()
    # Shapes without the memory of these models.
    state = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
    with pytest.raises(UserError, match=f'weights.pth .* {guess}') as raised:
        load_pretrained(KAT('tiny'), file_of(state, tmp_path))
    assert key in str(raised.value)


@pytest.mark.parametrize(
    'guess, key',
    [
        ('Swin', 'features.1.0.attn.relative_position_index'),  # torchvision
        ('Swin', 'layers.0.blocks.0.attn.relative_position_index'),  # the original
        ('Swin', 'layers.0.blocks.0.attn.cpb_mlp.0.weight'),  # its second version
        ('Swin', 'stages.0.blocks.0.attn.w_msa.relative_position_index'),  # mmpretrain
        # transformers
        ('Swin', 'encoder.layers.0.blocks.0.attention.self.relative_position_index'),
        ('BEiT', 'layers.0.attn.relative_position_index'),  # mmpretrain
        ('CLIP', 'vision_model.encoder.layers.0.self_attn.k_proj.weight'),  # transformers
    ],
)
def test_other_libraries_names_of_an_architecture_are_known(guess, key, tmp_path):
    path = file_of({key: torch.ones(1)}, tmp_path)
    with pytest.raises(UserError, match=f'such as {key} look like those of a {guess}'):
        load_pretrained(small(), path)


def test_an_unknown_architecture_is_refused_with_its_first_keys(tmp_path):
    path = file_of({'stem.conv.weight': torch.ones(1), 'trunk.0.w': torch.ones(1)}, tmp_path)
    with pytest.raises(UserError, match='unknown layout: .*stem.conv.weight, trunk.0.w'):
        load_pretrained(small(), path)


# ViT in, KAT out


@torch.no_grad()
def test_a_vit_is_taken_over_with_its_function(tmp_path):
    torch.manual_seed(0)
    arch = dict(embed_dims=48, num_layers=12, num_heads=3, feedforward_channels=192)
    vit = small(arch=arch, ffn_cfg=dict(type='MLP')).eval()
    largest = []
    for block in vit.blocks:
        nn.init.normal_(block.mlp.fc1.weight, std=1.5 * 48**-0.5)
        nn.init.normal_(block.mlp.fc1.bias, mean=-0.5, std=0.5)
        nn.init.normal_(block.mlp.fc2.weight, std=192**-0.5)
        block.mlp.fc1.register_forward_hook(lambda *args: largest.append(args[2].abs().max()))
    path = file_of(vit.state_dict(), tmp_path)
    images = torch.randn(16, 3, 32, 32)
    (expected,) = vit(images)
    assert 4 < max(largest) < 9  # beyond [-3, 3], where published fits end

    def distance(**ffn_cfg):
        model = small(arch=arch, ffn_cfg=dict(type='GRKAN', **ffn_cfg)).eval()
        load_pretrained(model, path)
        return ((model(images)[0] - expected).norm() / expected.norm()).item()

    gelu = ('identity', 'gelu')
    assert distance(act_init=gelu) < 0.02
    assert distance(act_init=gelu, order=(7, 6), act_interval=(-6, 6)) < 4e-3
    assert distance(act_init=gelu, order=(9, 8)) < 3e-4
    assert distance(act_init=('identity', 'swish')) > 0.1


@pytest.mark.parametrize('act', ['gelu', 'gelu_tanh', 'quick_gelu', 'silu'])
@pytest.mark.parametrize('gated', [False, True])
@torch.no_grad()
def test_a_vit_of_each_activation_starts_a_kat(gated, act, tmp_path):
    """With all that foundation models have besides."""
    torch.manual_seed(0)
    arch = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
    options = dict(
        arch=arch,
        num_registers=2,
        layer_scale=1.0,
        with_pos_embed=False,
        out_type='featmap',
        attn_cfg=dict(type='SoftmaxAttention', qkv_bias='qv', rope=dict(), qk_norm=True),
    )
    kind = dict(type='SwiGLU', inner_norm=True) if gated else dict(type='MLP')
    vit = small(**options, ffn_cfg=dict(kind, act=act)).eval()
    for parameter in vit.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        nn.init.normal_(parameter, std=fan_in**-0.5)
    path, images = file_of(vit.state_dict(), tmp_path), torch.randn(8, 3, 32, 32)
    (expected,) = vit(images)

    def distance(**ffn_cfg):
        kind = dict(type='GatedGRKAN', inner_norm=True) if gated else dict(type='GRKAN')
        model = small(**options, ffn_cfg={**kind, **ffn_cfg}).eval()
        load_pretrained(model, path)
        return ((model(images)[0] - expected).norm() / expected.norm()).item()

    assert distance(act_init=('identity', act)) < 0.02
    assert distance(act_init=('identity', act), order=(9, 8)) < 5e-4
    assert distance(act_init=('identity', 'tanh')) > 0.1


@pytest.mark.parametrize('init_cfg', [dict(checkpoint='kat_t_in1k'), [dict(type='Pretrained')]])
def test_an_init_cfg_that_lacks_its_type_or_its_checkpoint_is_refused(init_cfg):
    words = '(be a dict with a type|have as checkpoint the name of a published model)'
    with pytest.raises(ValueError, match=f'init_cfg=.* must {words}'):
        small(init_cfg=init_cfg)


@pytest.mark.parametrize(
    'wrong, words',
    [
        ('kat_t_in1k', "init_cfg='kat_t_in1k' must be a dict with a type"),
        (True, 'init_cfg=True must be a dict with a type'),
        (dict(checkpoint=5), 'must have as checkpoint the name'),
        (dict(checkpoint=''), 'must have as checkpoint the name'),
        (dict(ignor='reg_token'), 'unknown keys ignor; .* takes prefix.* and ignore'),
        (dict(prefix=5), r"init_cfg\.prefix=5 must be .* such as 'backbone\.'"),
        (dict(ignore=5), 'ignore=5 must be a regular expression'),
        (dict(ignore=[5]), r'ignore=\[5\] must be a regular expression'),
        (dict(ignore='('), r"ignore='\(' must be a regular expression .*unterminated"),
    ],
)
def test_an_init_cfg_with_a_part_of_a_wrong_kind_is_refused_as_the_model_is_built(wrong, words):
    start = dict(type='Pretrained', checkpoint='kat_t_in1k')
    init_cfg = {**start, **wrong} if isinstance(wrong, dict) else wrong
    with pytest.raises(ValueError, match=words):
        small(init_cfg=init_cfg)
    with pytest.raises(ValueError, match=r'init_cfg=\[|' + words):
        small(init_cfg=[init_cfg])


def test_no_checkpoint_is_from_scratch():
    models = []
    for init_cfg in (None, dict(type='Pretrained', checkpoint=None)):
        torch.manual_seed(0)
        models.append(small(init_cfg=init_cfg))
        models[-1].init_weights()
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(first, second)
