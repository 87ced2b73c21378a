"""The published weights that have a name here."""

from typing import NamedTuple

_KAT = 'https://github.com/Adamdad/kat/releases/download/checkpoint'
_KAT_HUB = 'https://huggingface.co/adamdad/kat_pretained/resolve/main'
_META = 'https://dl.fbaipublicfiles.com'
_AUGREG = 'https://storage.googleapis.com/vit_models/augreg'


class Published(NamedTuple):
    """Weights that somebody published.

    Attributes:
        url: Where the file is; the digits in its name, where there are some, begin its SHA-256.
        source: Where they are described, and their results.
        licence: Under which they are published.
        top1: Published top-1 accuracy on ImageNet-1k in %, at 224x224; None where they have no head
            or their source gives none.
    """

    url: str
    source: str
    licence: str
    top1: float | None = None


def _kat(file: str, top1: float, folder: str = _KAT) -> Published:
    return Published(f'{folder}/{file}', 'https://github.com/Adamdad/kat', 'MIT', top1)


def _deit(file: str, top1: float) -> Published:
    source = 'https://github.com/facebookresearch/deit/blob/main/README_deit.md'
    return Published(f'{_META}/deit/{file}', source, 'Apache-2.0', top1)


def _augreg(file: str) -> Published:
    source = 'https://github.com/google-research/vision_transformer'
    return Published(f'{_AUGREG}/{file}.npz', source, 'Apache-2.0')


def _dinov2(model: str, file: str) -> Published:
    source = 'https://github.com/facebookresearch/dinov2'
    return Published(f'{_META}/dinov2/{model}/{file}_pretrain.pth', source, 'Apache-2.0')


# t, s, b: tiny, small, base. The tables in KAT's own pages have T and S exchanged; file names tell.
PUBLISHED = {
    'kat_t_in1k': _kat(
        'kat_tiny_patch16_224_1f3ad3b2e69821f3d412f2924cf159a0e266f142d739cb68f68f796f5a0fe289.pth',
        74.6,
    ),
    'kat_s_in1k': _kat(
        'kat_small_patch16_224_'
        '32487885cf13d2c14e461c9016fac8ad43f7c769171f132530941e930aeb5fe2.pth',
        81.2,
    ),
    'kat_b_in1k': _kat(
        'kat_base_patch16_224_abff874d925d756d15cde97303f772a3460ddbd44b9c53fb9ce5cf15be230fb6.pth',
        82.3,
    ),
    'kat_t_from_vit_in1k': _kat(
        'kat_tiny_patch16_224-finetune_'
        '64f124d003803e4a7e1aba1ba23500ace359b544e8a5f0110993f25052e402fb.pth',
        75.7,
    ),
    'kat_s_from_vit_in1k': _kat(
        'kat_small_patch_224-finetune_'
        '3ae087a4c28e2993468eb377d5151350c52c80b2a70cc48ceec63d1328ba58e0.pth',
        82.0,
    ),
    'kat_b_from_vit_in1k': _kat(
        'kat_base_patch16_224-finetune_'
        '440bf1ead9dd8ecab642078cfb60ae542f1fa33ca65517260501e02c011e38f2.pth',
        82.8,
        _KAT_HUB,
    ),
    'deit_t_in1k': _deit('deit_tiny_patch16_224-a1311bcf.pth', 72.2),
    'deit_s_in1k': _deit('deit_small_patch16_224-cd65a155.pth', 79.9),
    'deit_b_in1k': _deit('deit_base_patch16_224-b5f2ef4d.pth', 81.8),
    # ImageNet-21k, then ImageNet-1k.
    'augreg_t_in1k': _augreg(
        'Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
        '--imagenet2012-steps_20k-lr_0.03-res_224'
    ),
    'augreg_s_in1k': _augreg(
        'S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0'
        '--imagenet2012-steps_20k-lr_0.03-res_224'
    ),
    'augreg_b_in1k': _augreg(
        'B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0'
        '--imagenet2012-steps_20k-lr_0.01-res_224'
    ),
    # ImageNet-21k alone, whose head has 21,843 classes.
    'augreg_t_in21k': _augreg('Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'),
    'augreg_s_in21k': _augreg('S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0'),
    'augreg_b_in21k': _augreg('B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0'),
    'mae_b': Published(
        f'{_META}/mae/pretrain/mae_pretrain_vit_base.pth',
        'https://github.com/facebookresearch/mae',
        'CC-BY-NC-4.0',
    ),
    'dinov2_s': _dinov2('dinov2_vits14', 'dinov2_vits14'),
    'dinov2_b': _dinov2('dinov2_vitb14', 'dinov2_vitb14'),
    'dinov2_s_reg': _dinov2('dinov2_vits14', 'dinov2_vits14_reg4'),
    'dinov2_b_reg': _dinov2('dinov2_vitb14', 'dinov2_vitb14_reg4'),
}

# Names that begin so belong to weights that nobody may pass on: how to get them oneself.
GATED = {
    'dinov3': 'DINOv3 is given to those who accept its licence: ask for it at '
    'https://ai.meta.com/resources/models-and-libraries/dinov3-downloads, or at '
    'https://huggingface.co/facebook (such as dinov3-vits16-pretrain-lvd1689m), and give the file '
    'that you get in place of the name',
}
