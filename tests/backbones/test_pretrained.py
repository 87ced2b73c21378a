"""Checkpoints of other sizes, heads and architectures: resized, left out, or refused."""

import logging

import pytest
import timm
import torch
from timm.layers import resample_patch_embed
from torch import nn

from kat_mm.backbones import KAT, convert_for_model, load_pretrained
from kat_mm.errors import UserError
from kat_mm.layers import resize_patch_embed, resize_pos_embed

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


# Parts


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
    model.init_weights()
    load_pretrained(model, file_of(state, tmp_path))
    assert 'Missing: blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias' in log()
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
