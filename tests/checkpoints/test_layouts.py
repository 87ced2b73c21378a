"""Files of every layout with their exact keys, made from and compared with other libraries."""

import re

import numpy as np
import pytest
import timm
import torch
from mmpretrain.models import VisionTransformer
from safetensors.torch import save_file
from torch import nn

from kat_mm.backbones import KAT, load_pretrained
from kat_mm.checkpoints import from_official, read_checkpoint, to_official, write_checkpoint
from kat_mm.errors import UserError


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter random, so that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def image(size: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, size, size, generator=generator, dtype=torch.float64)


def tokens(model: KAT, x: torch.Tensor) -> torch.Tensor:
    """Class token and patches behind the last norm, (B, 1 + N, C), as timm's forward_features."""
    model = model.double().eval()
    model.out_type = 'featmap'
    (patches,) = model(x)
    model.out_type = 'cls_token'
    (cls_token,) = model(x)
    return torch.cat([cls_token[:, None], patches.flatten(2).transpose(1, 2)], dim=1)


def load_vit(path, arch, size, patch=16, **kwargs) -> KAT:
    model = KAT(arch, img_size=size, patch_size=patch, ffn_cfg=dict(type='MLP'), **kwargs)
    load_pretrained(model, path)
    return model


# timm: ViT, DeiT, DeiT-III, DINOv2, MAE

TIMM = {
    'vit_tiny_patch16_224': dict(arch='tiny', size=224),
    'deit3_small_patch16_224': dict(arch='small', size=96),
    'vit_small_patch14_dinov2': dict(arch='small', size=112, patch=14),
}


@pytest.mark.parametrize('name', TIMM)
def test_features_are_those_of_timm(name, tmp_path):
    settings = TIMM[name]
    reference = randomised(timm.create_model(name, img_size=settings['size']))
    torch.save({'model': reference.state_dict()}, tmp_path / 'vit.pth')
    model = load_vit(tmp_path / 'vit.pth', **settings)
    x = image(settings['size'])
    with torch.no_grad():
        # LayerScale is folded in float32.
        torch.testing.assert_close(
            tokens(model, x), reference.double().forward_features(x), rtol=1e-5, atol=1e-5
        )


def test_layer_scale_has_two_names():
    state = timm.create_model('deit3_small_patch16_224', img_size=32).state_dict()
    # As the authors' files of DeiT-III have it.
    other = {re.sub(r'ls([12])\.gamma', r'gamma_\1', key): value for key, value in state.items()}
    assert 'blocks.11.gamma_2' in other
    (expected, _), (found, _) = (to_official({'model': model}, 'f') for model in (state, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_safetensors_of_timm_are_read(tmp_path):
    reference = randomised(timm.create_model('vit_tiny_patch16_224', img_size=32))
    save_file(reference.state_dict(), tmp_path / 'model.safetensors')
    model = load_vit(tmp_path / 'model.safetensors', 'tiny', 32)
    with torch.no_grad():
        torch.testing.assert_close(
            tokens(model, image(32)), reference.double().forward_features(image(32))
        )


def test_what_is_for_pretraining_in_mae_is_dropped(tmp_path):
    reference = randomised(timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0))
    state = {
        **reference.state_dict(),
        'mask_token': torch.ones(1, 1, 512),
        'decoder_pos_embed': torch.ones(1, 5, 512),
        'decoder_embed.weight': torch.ones(512, 192),
        'decoder_blocks.0.norm1.weight': torch.ones(512),
        'decoder_norm.bias': torch.ones(512),
        'decoder_pred.weight': torch.ones(768, 512),
    }
    torch.save({'model': state}, tmp_path / 'mae.pth')
    model = load_vit(tmp_path / 'mae.pth', 'tiny', 32)
    for key, value in model.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key


def test_the_distillation_token_is_a_register(tmp_path):
    reference = randomised(timm.create_model('deit_tiny_distilled_patch16_224', img_size=32))
    torch.save({'model': reference.state_dict()}, tmp_path / 'deit.pth')
    model = load_vit(tmp_path / 'deit.pth', 'tiny', 32, num_registers=1)
    with torch.no_grad():
        expected = reference.double().forward_features(image(32))
        torch.testing.assert_close(
            tokens(model, image(32)), torch.cat([expected[:, :1], expected[:, 2:]], dim=1)
        )


# AugReg's .npz


def to_flax(state: dict[str, torch.Tensor], heads: int) -> dict[str, np.ndarray]:
    """A ViT of timm in the names and axes of AugReg's files."""
    arrays = {
        'cls': state['cls_token'],
        'Transformer/posembed_input/pos_embedding': state['pos_embed'],
        'embedding/kernel': state['patch_embed.proj.weight'].permute(2, 3, 1, 0),
        'embedding/bias': state['patch_embed.proj.bias'],
        'Transformer/encoder_norm/scale': state['norm.weight'],
        'Transformer/encoder_norm/bias': state['norm.bias'],
        'head/kernel': state['head.weight'].T,
        'head/bias': state['head.bias'],
    }
    for i in range(12):
        block, old = f'Transformer/encoderblock_{i}', f'blocks.{i}'
        for flax, name in (('LayerNorm_0', 'norm1'), ('LayerNorm_2', 'norm2')):
            arrays[f'{block}/{flax}/scale'] = state[f'{old}.{name}.weight']
            arrays[f'{block}/{flax}/bias'] = state[f'{old}.{name}.bias']
        for j in (0, 1):
            dense = f'{block}/MlpBlock_3/Dense_{j}'
            arrays[f'{dense}/kernel'] = state[f'{old}.mlp.fc{j + 1}.weight'].T
            arrays[f'{dense}/bias'] = state[f'{old}.mlp.fc{j + 1}.bias']
        attention = f'{block}/MultiHeadDotProductAttention_1'
        weights, biases = (state[f'{old}.attn.qkv.{kind}'].chunk(3) for kind in ('weight', 'bias'))
        for part, weight, bias in zip(('query', 'key', 'value'), weights, biases, strict=True):
            arrays[f'{attention}/{part}/kernel'] = weight.T.unflatten(1, (heads, -1))
            arrays[f'{attention}/{part}/bias'] = bias.unflatten(0, (heads, -1))
        arrays[f'{attention}/out/kernel'] = state[f'{old}.attn.proj.weight'].T.unflatten(
            0, (heads, -1)
        )
        arrays[f'{attention}/out/bias'] = state[f'{old}.attn.proj.bias']
    return {key: np.ascontiguousarray(value) for key, value in arrays.items()}


def test_augreg_is_read_as_timm_reads_it(tmp_path):
    source = randomised(timm.create_model('vit_tiny_patch16_224'))
    np.savez(tmp_path / 'Ti_16.npz', **to_flax(source.state_dict(), heads=3))
    reference = timm.create_model('vit_tiny_patch16_224')
    reference.load_pretrained(tmp_path / 'Ti_16.npz')
    official, left_out = to_official(read_checkpoint(tmp_path / 'Ti_16.npz'), 'Ti_16.npz')
    expected = reference.state_dict()
    assert official.keys() == expected.keys() and not left_out
    for key, value in expected.items():
        assert torch.equal(official[key], value), key
    model = load_vit(tmp_path / 'Ti_16.npz', 'tiny', 224)
    assert torch.equal(model.blocks[11].attn.qkv.weight, source.blocks[11].attn.qkv.weight)


def test_python_objects_in_an_npz_file_are_refused_or_left_out(tmp_path):
    np.savez(tmp_path / 'Ti_16.npz', cls=np.ones(2), opt=np.array([{}], dtype=object))
    with pytest.raises(UserError, match='Ti_16.npz .* it holds Python objects.*--allow-pickle'):
        read_checkpoint(tmp_path / 'Ti_16.npz')
    assert read_checkpoint(tmp_path / 'Ti_16.npz', allow_pickle=True).keys() == {'cls'}


def test_an_augreg_file_that_lacks_a_part_is_refused_by_name(tmp_path):
    arrays = to_flax(timm.create_model('vit_tiny_patch16_224').state_dict(), heads=3)
    del arrays['Transformer/encoderblock_7/MultiHeadDotProductAttention_1/key/bias']
    np.savez(tmp_path / 'Ti_16.npz', **arrays)
    with pytest.raises(UserError, match='is incomplete: .*encoderblock_7.*key/bias'):
        load_vit(tmp_path / 'Ti_16.npz', 'tiny', 224)


# mmpretrain


class Classifier(nn.Module):
    """The keys of mmpretrain's ImageClassifier around its ViT."""

    def __init__(self, **kwargs):
        super().__init__()
        arch = dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768)
        self.backbone = VisionTransformer(arch, img_size=32, out_type='raw', **kwargs)
        self.head = nn.Module()
        self.head.layers = nn.ModuleDict({'head': nn.Linear(192, 10)})


@pytest.mark.parametrize('kwargs', [{}, dict(layer_scale_init_value=0.5)])
def test_features_are_those_of_mmpretrain(kwargs, tmp_path):
    reference = randomised(Classifier(**kwargs))
    torch.save({'meta': {}, 'state_dict': reference.state_dict()}, tmp_path / 'vit.pth')
    model = load_vit(tmp_path / 'vit.pth', 'tiny', 32)
    with torch.no_grad():
        (expected,) = reference.backbone.double()(image(32))
        torch.testing.assert_close(tokens(model, image(32)), expected, rtol=1e-5, atol=1e-5)


def test_the_head_of_mmpretrain_becomes_the_official_one(tmp_path):
    reference = randomised(Classifier())
    official, left_out = to_official({'state_dict': reference.state_dict()}, 'vit.pth')
    assert torch.equal(official['head.weight'], reference.head.layers['head'].weight)
    assert not left_out
    timm_keys = timm.create_model('vit_tiny_patch16_224').state_dict().keys()
    assert official.keys() == timm_keys


# Official KAT and FlashKAT


def official_kat(denominator='weight_denominator', numerator='weight_numerator', groups=1):
    """The keys and shapes of the published KAT-T with 1000 classes."""
    shapes = {
        'cls_token': (1, 1, 192),
        'pos_embed': (1, 197, 192),
        'patch_embed.proj.weight': (192, 3, 16, 16),
        'patch_embed.proj.bias': (192,),
        'norm.weight': (192,),
        'norm.bias': (192,),
        'head.weight': (1000, 192),
        'head.bias': (1000,),
    }
    for i in range(12):
        block = f'blocks.{i}'
        for norm in ('norm1', 'norm2'):
            shapes |= {f'{block}.{norm}.weight': (192,), f'{block}.{norm}.bias': (192,)}
        for name, rows, columns in (
            ('attn.qkv', 576, 192),
            ('attn.proj', 192, 192),
            ('mlp.fc1', 768, 192),
            ('mlp.fc2', 192, 768),
        ):
            shapes |= {f'{block}.{name}.weight': (rows, columns), f'{block}.{name}.bias': (rows,)}
        for act in ('act1', 'act2'):
            shapes[f'{block}.mlp.{act}.{numerator}'] = (groups, 6)
            shapes[f'{block}.mlp.{act}.{denominator}'] = (8, 4)
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def test_the_official_layout_has_the_published_number_of_parameters():
    assert sum(value.numel() for value in official_kat().values()) == 5_718_328


@pytest.mark.parametrize(
    'nest', [lambda s: s, lambda s: {'epoch': 1, 'state_dict': s}, lambda s: {'state_dict_ema': s}]
)
def test_official_kat_loads_to_the_bit(nest, tmp_path):
    state = official_kat()
    torch.save(nest(state), tmp_path / 'kat.pth')
    model = KAT('tiny')
    load_pretrained(model, tmp_path / 'kat.pth')
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('groups', [1, 8])
def test_flashkat_loads_to_the_bit(groups, tmp_path):
    state = official_kat('denominator_v', 'numerator_v', groups)
    torch.save(state, tmp_path / 'flashkat.pth')
    model = KAT('tiny', ffn_cfg=dict(type='GRKAN', num_numerator_groups=groups))
    load_pretrained(model, tmp_path / 'flashkat.pth')
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[re.sub(r'weight_(num|den)(.*)', r'\1\2_v', key)]), key


def test_other_numbers_of_groups_are_refused_with_both(tmp_path):
    torch.save(official_kat('denominator_v', 'numerator_v', 8), tmp_path / 'flashkat.pth')
    with pytest.raises(UserError, match=r'act1.weight_numerator: \[8, 6\] .* \[1, 6\]'):
        load_pretrained(KAT('tiny'), tmp_path / 'flashkat.pth')


# There and back


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('layout', ['kat', 'flashkat', 'kat_mm'])
def test_every_written_layout_comes_back_to_the_bit(layout, suffix, tmp_path):
    state = official_kat()
    path = tmp_path / f'out{suffix}'
    write_checkpoint(from_official(state, layout), path)
    back, left_out = to_official(read_checkpoint(path), path)
    assert back.keys() == state.keys() and not left_out
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_flashkat_is_written_with_its_names(tmp_path):
    written = from_official(official_kat(), 'flashkat')
    assert written.keys() == official_kat('denominator_v', 'numerator_v').keys()


def test_a_grid_that_is_not_square_survives_writing(tmp_path):
    model = KAT('tiny', img_size=(32, 128))
    official, _ = to_official(nn.ModuleDict({'backbone': model}).state_dict(), 'model')
    write_checkpoint(from_official(official, 'kat_mm'), tmp_path / 'kat.pth')
    back, _ = to_official(read_checkpoint(tmp_path / 'kat.pth'), 'kat.pth')
    assert back._metadata['']['grid_size'] == (2, 8)
    with pytest.raises(UserError, match='safetensors.*grid'):
        write_checkpoint(official, tmp_path / 'kat.safetensors')
