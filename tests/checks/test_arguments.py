from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from kat_mm import checks
from kat_mm.checks.arguments import check_arguments, check_config_arguments
from kat_mm.checks.libraries import check_library
from kat_mm.checks.settings import check_settings
from kat_mm.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_a_misspelt_key_gets_a_suggestion_and_the_known_keys():
    backbone = dict(type='KAT', out_indicies=(2, 5))
    with pytest.raises(UserError) as error:
        check_arguments(backbone, 'model.backbone')
    message = str(error.value)
    assert 'model.backbone.out_indicies is not an argument of KAT' in message
    assert 'did you mean out_indices?' in message
    assert 'drop_path_rate' in message


def test_what_a_base_config_left_is_told_as_such():
    resnet = dict(depth=50, num_stages=4, norm_cfg=dict(type='BN'), style='pytorch')
    with pytest.raises(UserError) as error:
        check_arguments(dict(type='KAT', arch='small', **resnet), 'model.backbone')
    message = str(error.value)
    assert 'model.backbone has depth, num_stages, norm_cfg, style' in message
    assert '_delete_=True' in message and 'drop_path_rate' in message


def test_keys_of_the_parts_of_the_backbone_are_checked_too():
    backbone = dict(type='KAT', ffn_cfg=dict(type='GRKAN', num_group=4))
    with pytest.raises(UserError, match='model.backbone.ffn_cfg.num_group .*num_groups'):
        check_arguments(backbone, 'model.backbone')


def test_right_keys_and_other_projects_backbones_pass():
    check_arguments(dict(type='KAT', ffn_cfg=dict(type='MLP', bias=False)), 'here')
    check_arguments(dict(type='mmseg.ResNet', anything=1), 'here')
    check_arguments(dict(), 'here')


def test_a_misspelt_key_is_found_wherever_it_stands():
    cfg = Config(dict(model=dict(type='mmseg.EncoderDecoder', parts=[dict(type='KAT', arhc='x')])))
    with pytest.raises(UserError, match=r'model\.parts\[0\]\.arhc .*did you mean arch'):
        checks.check_config(cfg, ())


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(model=dict(type='EncoderDecoder', backone=dict(type='KAT'))),
            'model.backone is not an argument of EncoderDecoder; did you mean backbone',
        ),
        (
            dict(model=dict(decode_head=dict(type='UPerHead', num_clases=3, in_channels=[1]))),
            'model.decode_head.num_clases .* did you mean num_classes',
        ),
        (
            dict(
                model=dict(
                    decode_head=dict(loss_decode=dict(type='CrossEntropyLoss', loss_wieght=1))
                )
            ),
            'model.decode_head.loss_decode.loss_wieght .* did you mean loss_weight',
        ),
        (
            dict(train_dataloader=dict(dataset=dict(type='ADE20KDataset', data_rot='x'))),
            'train_dataloader.dataset.data_rot .* did you mean data_root',
        ),
        (
            dict(
                val_dataloader=dict(
                    dataset=dict(
                        type='RepeatDataset',
                        dataset=dict(
                            type='ADE20KDataset',
                            pipeline=[dict(type='RandomCrop', crop_sizee=(3, 3))],
                        ),
                    )
                )
            ),
            r'dataset.pipeline\[0\].crop_sizee is not an argument of RandomCrop; .* crop_size',
        ),
        (
            dict(train_dataloader=dict(sampler=dict(type='InfiniteSampler', shufle=True))),
            'train_dataloader.sampler.shufle .* did you mean shuffle',
        ),
        (
            dict(train_dataloader=dict(sampler=dict(type='SeededInfiniteSampler', anything=True))),
            'sampler.anything is not an argument of SeededInfiniteSampler; It takes dataset, shuff',
        ),
        (
            dict(val_evaluator=[dict(type='IoUMetric', iou_metric=['mIoU'])]),
            r'val_evaluator\[0\].iou_metric .* did you mean iou_metrics',
        ),
        (
            dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', intervall=3))),
            'default_hooks.checkpoint.intervall .* did you mean interval',
        ),
        (
            dict(custom_hooks=[dict(type='PlotRationalsHook', every=3)]),
            r'custom_hooks\[0\].every is not an argument of PlotRationalsHook; It takes interval',
        ),
        (
            dict(param_scheduler=[dict(type='PolyLR', powr=1)]),
            r'param_scheduler\[0\].powr .* did you mean power',
        ),
    ],
)
def test_misspelt_keys_of_libraries_are_named(cfg, message):
    import mmseg.datasets
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    with pytest.raises(UserError, match=message):
        check_config_arguments(Config(cfg))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(
                train_dataloader=dict(
                    dataset=dict(
                        type='RepeatDataset',
                        dataset=dict(type='ADE20KDataset', pipeline=[dict(type='RandomFilp')]),
                    )
                )
            ),
            r"dataset.dataset.pipeline\[0\].type='RandomFilp' is not .* did you mean RandomFlip",
        ),
        (
            dict(train_dataloader=dict(dataset=dict(type='ADE20kDataset'))),
            "dataset.type='ADE20kDataset' is not registered; did you mean ADE20KDataset",
        ),
        (
            dict(train_dataloader=dict(sampler=dict(type='Nobodys'))),
            'Nobodys. is not registered. custom_imports of the config names the modules',
        ),
        (dict(val_evaluator=dict(type='IouMetric')), 'did you mean IoUMetric'),
        (dict(default_hooks=dict(x=dict(type='LogerHook'))), 'did you mean LoggerHook'),
        (dict(custom_hooks=[dict(type='EMAhook')]), r'custom_hooks\[0\].* did you mean EMAHook'),
        (dict(param_scheduler=[dict(type='PoliLR')]), 'did you mean PolyLR'),
        (dict(visualizer=dict(vis_backends=[dict(type='W')])), r'visualizer.vis_backends\[0\]'),
        (dict(optim_wrapper=dict(optimizer=dict(type='AdmW'))), 'did you mean AdamW'),
    ],
)
def test_types_that_are_not_registered_are_named(cfg, message):
    import mmseg.datasets
    import mmseg.evaluation  # noqa: F401

    init_default_scope('mmseg')
    with pytest.raises(UserError, match=message):
        check_config_arguments(Config(cfg))


def test_types_that_others_build_pass():
    init_default_scope('mmengine')
    hook = dict(type='EMAHook', switch_pipeline=[dict(type='LoadImageFromFile')])
    transform = dict(type='RandomApply', transforms=[dict(type='ShiftScaleRotate')])
    pipeline = dict(dataset=dict(type='ConcatDataset', pipeline=[transform]))
    check_config_arguments(Config(dict(custom_hooks=[hook], train_dataloader=pipeline)))


@pytest.mark.parametrize(
    'model',
    [
        dict(norm_cfg=dict(type='BN', requires_grad=True)),
        dict(backbone=dict(type='ResNet', depth=50, strange=1)),
        dict(backbone=dict(type='KAT', _delete_=True)),
        dict(type='NobodysModel', nuum_classes=3),
    ],
)
def test_what_libraries_take_out_of_configs_passes(model):
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    check_config_arguments(Config(dict(model=model)))


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_the_projects_configs_pass(path):
    cfg = Config.fromfile(path)
    check_library(cfg)
    init_default_scope(cfg.default_scope)
    check_config_arguments(cfg)
    check_settings(cfg)
