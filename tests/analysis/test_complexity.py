"""Operations against closed forms; what KAT adds to a ViT is in them."""

import pytest
from export_models import classifier_config, detector_config, segmenter_config

from kat_mm import checks
from kat_mm.analysis.complexity import count_complexity, count_parameters
from kat_mm.engine.configs import read_config

# Of export_models: width, depth, hidden width, side of a patch.
C, DEPTH, HIDDEN, P = 32, 2, 64, 8


def build(cfg):
    checks.check_config(cfg, ())
    return checks.build_model(cfg)


@pytest.mark.parametrize('ffn', ['GRKAN', 'MLP'])
@pytest.mark.parametrize('size', [(64, 64), (48, 80)])
def test_a_classifier_has_the_operations_of_the_closed_form(ffn, size):
    found = count_complexity(build(classifier_config(ffn)), size)
    n = size[0] // P * (size[1] // P) + 1
    patches = 2 * (n - 1) * 3 * P * P * C
    linear = DEPTH * 2 * n * (3 * C * C + C * C + 2 * C * HIDDEN)
    assert (
        sum(found.flops['backbone'].values()) - found.of_kind('rational') - found.of_kind('GELU')
        == patches + linear + DEPTH * 4 * n * n * C
    )
    assert found.of_kind('attention') == DEPTH * 4 * n * n * C
    # Degrees (5, 4): 2 m + 2 n + 3 = 21 on the input and on the hidden layer; GELU on the hidden.
    rational, gelu = DEPTH * n * (C + HIDDEN) * 21, DEPTH * n * HIDDEN * 14
    assert found.of_kind('rational') == (rational if ffn == 'GRKAN' else 0)
    assert found.of_kind('GELU') == (gelu if ffn == 'MLP' else 0)
    assert found.flops['head'] == dict(linear=2 * C * 10)
    assert found.total() == sum(sum(kinds.values()) for kinds in found.flops.values())


def test_images_have_the_channels_that_the_backbone_takes():
    cfg = classifier_config()
    colour = count_complexity(build(cfg), (64, 64))
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor.update(mean=[116.0], std=[57.0], to_rgb=False)
    grey = count_complexity(build(cfg), (64, 64))
    assert colour.total() - grey.total() == 2 * 64 * 2 * P * P * C


def test_kat_and_vit_differ_by_rationals_alone():
    kat, vit = (
        count_complexity(build(classifier_config(ffn)), (64, 64)) for ffn in ('GRKAN', 'MLP')
    )
    assert kat.total() - vit.total() == kat.of_kind('rational') - vit.of_kind('GELU') > 0
    added = kat.parameters['backbone'] - vit.parameters['backbone']
    # Of each activation 6 of one numerator and 4 of each of 8 denominators.
    assert added == DEPTH * 2 * (6 + 8 * 4)


def test_kat_s_and_vit_s_with_upernet(quick_build):
    kat, vit = (
        count_complexity(build(read_config(f'{name}_s_upernet_ade20k')), (128, 128))
        for name in ('kat', 'vit')
    )
    n, c, depth = 64 + 1, 384, 12
    tokens = n if kat.of_kind('attention') == depth * 4 * n * n * c else n - 1
    assert kat.of_kind('attention') == vit.of_kind('attention') == depth * 4 * tokens**2 * c
    assert kat.of_kind('rational') == depth * tokens * 5 * c * 21
    assert vit.of_kind('GELU') - kat.of_kind('GELU') == depth * tokens * 4 * c * 14


@pytest.mark.parametrize('config', [segmenter_config, lambda: detector_config('mask')])
def test_all_parts_of_a_dense_model_are_counted(config):
    model = build(config())
    found = count_complexity(model, (64, 64))
    used = set(found.parameters) - {'auxiliary_head'}  # for training alone
    assert used == set(found.flops)
    assert sum(found.parameters.values()) == sum(p.numel() for p in model.parameters())


def test_the_convolution_of_a_head_has_the_operations_of_the_closed_form():
    model = build(detector_config('mask'))
    found = count_complexity(model, (64, 64))
    # SimpleFeaturePyramid's maps of strides 4 to 32, through one 3x3 convolution and the two 1x1.
    area = sum((64 // stride) ** 2 for stride in (4, 8, 16, 32))
    anchors = model.rpn_head.num_base_priors
    assert found.flops['rpn_head'] == dict(
        convolution=2 * area * (9 * 16 * 16 + 16 * anchors + 16 * 4 * anchors)
    )


def test_shared_parameters_count_once():
    model = build(classifier_config())
    before = count_parameters(model)['backbone']
    model.backbone.blocks[1].mlp.fc1 = model.backbone.blocks[0].mlp.fc1
    assert before - count_parameters(model)['backbone'] == C * HIDDEN + HIDDEN


def test_what_is_not_counted_is_named():
    cfg = read_config('vit_t_karat_cifar10')
    assert count_complexity(build(cfg), (224, 224)).uncounted == ('KArAt',)
