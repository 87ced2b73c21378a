from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from kat_mm import checks
from kat_mm.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_the_model_is_built_without_using_up_its_config():
    model = dict(type='KAT', arch='tiny', img_size=32, out_indices=0, ffn_cfg=dict(type='MLP'))
    cfg = Config(dict(model=model))
    assert len(checks.build_model(cfg).blocks) == 1
    assert cfg.model == model


def test_a_model_that_cannot_be_built_is_a_users_mistake():
    with pytest.raises(UserError, match="the config cannot be built: .*arch='huge' is unknown"):
        checks.build_model(Config(dict(model=dict(type='KAT', arch='huge'))))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(chanels=5), 'has chanels=5, which FCNHead does not take; did you mean channels?'),
        (dict(scales=(1, 2)), r'has scales=\(1, 2\), which FCNHead .* write _delete_=True'),
    ],
)
def test_an_argument_that_a_part_does_not_take_is_told_with_its_place(changes, message):
    cfg = segmentor()
    cfg['decode_head'] = dict(cfg['decode_head'], type='FCNHead', **changes)
    with pytest.raises(UserError, match=f'model.decode_head {message}'):
        checks.build_model(Config(dict(model=cfg)))


ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
BACKBONE = dict(type='KAT', arch=ARCH, img_size=32, out_type='featmap', ffn_cfg=dict(type='MLP'))
PYRAMID = dict(type='SimpleFeaturePyramid', in_channels=32, out_channels=16)


def classifier(in_channels):
    import mmpretrain.models  # noqa: F401

    init_default_scope('mmpretrain')
    head = dict(type='LinearClsHead', num_classes=3, in_channels=in_channels)
    backbone = dict(BACKBONE, out_type='cls_token')
    return dict(type='ImageClassifier', backbone=backbone, head=head)


def segmentor(in_channels=32, auxiliary=32):
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    head = dict(type='FCNHead', channels=8, num_classes=3, num_convs=1, in_index=0)
    return dict(
        type='EncoderDecoder',
        backbone=BACKBONE,
        decode_head=dict(head, in_channels=in_channels),
        auxiliary_head=[dict(head, in_channels=auxiliary)],
    )


def detector(neck=32, rpn=16, roi=16, mask=16):
    import mmdet.models  # noqa: F401

    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / 'kat_t_mask_rcnn_sample.py').model
    cfg.backbone.update(arch=ARCH, out_indices=(1,), global_attn_indices=(1,))
    cfg.neck.update(in_channels=neck, out_channels=16)
    cfg.rpn_head.update(in_channels=rpn, feat_channels=16)
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.mask_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_head.update(in_channels=roi, fc_out_channels=16)
    cfg.roi_head.mask_head.update(in_channels=mask, conv_out_channels=16)
    return cfg


@pytest.mark.parametrize(
    'make, options, part',
    [
        (classifier, dict(in_channels=64), 'head.fc'),
        (segmentor, dict(in_channels=64), 'decode_head.convs.0.conv'),
        (segmentor, dict(auxiliary=64), 'auxiliary_head.0.convs.0.conv'),
        (detector, dict(neck=64), 'neck'),
        (detector, dict(rpn=32), 'rpn_head.rpn_conv'),
        (detector, dict(roi=32), 'roi_head.bbox_head'),
        (detector, dict(mask=32), 'roi_head.mask_head'),
    ],
)
def test_channels_that_differ_are_named_with_their_part(make, options, part):
    right = dict(in_channels=32) if make is classifier else {}
    model = checks.build_model(Config(dict(model=make(**right)))).train()
    checks.check_channels(model)
    assert model.training and not any(m._forward_pre_hooks for m in model.modules())
    wrong = checks.build_model(Config(dict(model=make(**options))))
    expected = rf'do not fit: model\.{part}\S* gets another number of channels .*in_channels'
    with pytest.raises(UserError, match=expected):
        checks.check_channels(wrong)


def test_a_model_without_a_kat_is_left_to_its_project():
    checks.check_channels(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 6)))


def test_a_config_without_a_model_is_refused():
    with pytest.raises(UserError, match='the config has no model'):
        checks.build_model(Config(dict(data_root='x')))


def test_a_head_that_needs_more_than_features_is_left_to_the_run():
    model = checks.build_model(Config(dict(model=segmentor())))
    model.decode_head.forward = lambda features, queries: None
    checks.check_channels(model)


def test_vectors_in_the_place_of_maps_are_told_by_the_argument_that_makes_them():
    for make, part in ((segmentor, 'decode_head'), (detector, 'neck')):
        for out_type in ('cls_token', 'avg_featmap'):
            cfg = make()
            has_token = out_type == 'cls_token'
            cfg['backbone'] = dict(cfg['backbone'], out_type=out_type, with_cls_token=has_token)
            if has_token:
                cfg['backbone'].update(window_size=0, use_rel_pos=False)
            model = checks.build_model(Config(dict(model=cfg)))
            expected = (
                rf"model\.{part}\S* needs feature maps.*out_type='{out_type}'.*Set .*'featmap'"
            )
            with pytest.raises(UserError, match=expected):
                checks.check_channels(model)


def test_maps_of_other_strides_than_a_detector_counts_with_are_refused():
    def with_neck(**neck):
        cfg = detector()
        cfg.backbone.out_indices = (0, 1)
        cfg.neck = dict(neck, out_channels=16)
        cfg.roi_head.bbox_roi_extractor.featmap_strides = strides[:2]
        cfg.roi_head.mask_roi_extractor.featmap_strides = strides[:2]
        cfg.rpn_head.anchor_generator.strides = strides
        return checks.build_model(Config(dict(model=cfg)))

    # Two maps of one stride into a pyramid of several.
    strides = [8, 16, 32]
    fpn = dict(type='FPN', in_channels=[32, 32], num_outs=3)
    expected = r'rpn_head counts with strides \[8, 16, 32\].*have \[8.0, 8.0, 16.0\].*SimpleFeature'
    with pytest.raises(UserError, match=expected):
        checks.check_channels(with_neck(**fpn))
    strides = [8, 8, 16]
    checks.check_channels(with_neck(**fpn))
    strides = [4, 8, 16]
    pyramid = dict(type='SimpleFeaturePyramid', in_channels=32, scales=(2, 1), num_outs=3)
    model = with_neck(**pyramid)
    checks.check_channels(model)
    model.roi_head.mask_roi_extractor.featmap_strides = [8, 16]
    with pytest.raises(UserError, match=r'roi_head.mask_roi_extractor counts with .*\[8, 16\]'):
        checks.check_channels(model)


@pytest.mark.parametrize('patch, given', [(14, r'7\.0, 14\.0'), (16, r'8\.0, 16\.0')])
def test_patches_with_which_anchors_would_lie_elsewhere_are_refused(patch, given):
    cfg = detector()
    cfg.backbone.update(patch_size=patch, img_size=4 * patch)
    model = checks.build_model(Config(dict(model=cfg)))
    with pytest.raises(UserError, match=rf'rpn_head counts with strides .*have \[{given}'):
        checks.check_channels(model)


@pytest.mark.parametrize('num_outs', [3, 5])
def test_anchors_for_another_number_of_maps_are_refused(num_outs):
    cfg = detector()
    cfg.neck.update(scales=(2, 1, 0.5), num_outs=num_outs)
    expected = rf'rpn_head counts with 4 strides, \[4, 8, 16, 32\], and gets {num_outs} maps'
    with pytest.raises(UserError, match=expected):
        build_and_check(cfg)


def test_maps_in_the_place_of_vectors_are_told_to_a_classifier():
    cfg = classifier(32)
    cfg['backbone'].update(out_type='featmap')
    with pytest.raises(UserError, match=r"model\.head\.fc needs vectors.*out_type='cls_token'"):
        build_and_check(cfg)
    build_and_check(dict(cfg, neck=dict(type='GlobalAveragePooling')))
    cfg['backbone'].update(out_type='cls_token')
    with pytest.raises(UserError, match=r"model\.neck\S* needs feature maps.*Set .*'featmap'"):
        build_and_check(dict(cfg, neck=dict(type='GlobalAveragePooling')))


def fpn_segmentor(strides=(4, 8), in_index=(0, 1), **backbone):
    cfg = segmentor()
    cfg['backbone'] = dict(BACKBONE, **{'out_indices': (0, 1), **backbone})
    cfg['neck'] = dict(type='MultiLevelNeck', in_channels=[32, 32], out_channels=32, scales=[4, 2])
    cfg['decode_head'] = dict(
        type='FPNHead',
        in_channels=[32] * len(strides),
        in_index=list(in_index),
        feature_strides=list(strides),
        channels=8,
        num_classes=3,
    )
    return cfg


def build_and_check(cfg):
    model = checks.build_model(Config(dict(model=cfg)))
    checks.check_channels(model)
    return model


def test_heads_of_a_pyramid_are_refused_maps_of_one_stride():
    build_and_check(fpn_segmentor())
    build_and_check(fpn_segmentor(patch_size=14, img_size=56))  # a half of a pixel is the same half
    build_and_check(fpn_segmentor(strides=(8,), in_index=(1,)))
    bare = dict(fpn_segmentor(), neck=None)
    with pytest.raises(UserError, match=r'decode_head counts with .*\[4, 8\].*\[16\.0, 16\.0\]'):
        build_and_check(bare)
    bare['decode_head'].update(feature_strides=[16, 16])
    build_and_check(bare)


def test_the_pixel_decoder_of_mask2former_is_run():
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIGS / 'kat_s_mask2former_ade20k.py').model
    arch = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=32)
    cfg.backbone.update(arch=arch, img_size=64, out_indices=(0, 1, 2, 3), init_cfg=None)
    cfg.neck.embed_dim, cfg.decode_head.in_channels = 32, [32] * 4
    build_and_check(cfg)
    with pytest.raises(UserError, match=r'pixel_decoder counts with .*\[16\.0, 16\.0, 16\.0'):
        build_and_check(Config(dict(cfg, neck=None)))
    cfg.decode_head.in_channels = [64] * 4
    with pytest.raises(UserError, match=r'model\.decode_head\.pixel_decoder\S* gets another'):
        build_and_check(cfg)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(out_indices=1), r'model\.neck fails .*out_indices=\(1,\)'),
        (dict(in_index=(0, 2)), r'model\.decode_head fails .*out_indices=\(0, 1\)'),
        (
            dict(output_cls_token=True),
            r'model\.neck\S* fails .*with class tokens: output_cls_token',
        ),
    ],
)
def test_another_number_or_kind_of_maps_is_told(options, words):
    with pytest.raises(UserError, match=words):
        build_and_check(fpn_segmentor(**options))


def test_class_tokens_that_a_head_reads_are_asked_for():
    cfg = segmentor()
    del cfg['auxiliary_head']
    cfg['backbone'] = dict(
        BACKBONE,
        arch=dict(ARCH, num_layers=4),
        out_indices=(0, 1, 2, 3),
        output_cls_token=True,
    )
    cfg['decode_head'] = dict(
        type='DPTHead',
        in_channels=[32] * 4,
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
        channels=16,
        embed_dims=32,
        post_process_channels=[8, 16, 16, 16],
        num_classes=3,
        readout_type='project',
        norm_cfg=dict(type='BN'),
    )
    build_and_check(cfg)
    cfg['backbone'].update(output_cls_token=False)
    with pytest.raises(UserError, match=r'decode_head reads .*output_cls_token=True'):
        build_and_check(cfg)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_images_of_any_channels_are_taken_and_other_means_refused(channels):
    cfg = segmentor()
    cfg['backbone'] = dict(BACKBONE, in_channels=channels)
    for values in (None, 1, 3):
        if values is not None:
            options = dict(mean=[0.5] * values, std=[1.0] * values)
            cfg['data_preprocessor'] = dict(type='SegDataPreProcessor', **options)
        if values == 3 != channels:
            with pytest.raises(UserError, match=rf'in_channels={channels} .*those of 3 channels'):
                build_and_check(cfg)
            continue
        model = build_and_check(cfg)
        wrong = torch.zeros(1, channels + 1, 32, 32)
        with pytest.raises(UserError, match=f'{channels + 1} channels, and in_channels={channels}'):
            model.backbone(wrong)


def test_crops_of_parts_of_patches_are_refused_where_labels_would_lie_beside_them():
    cfg = segmentor()
    cfg['data_preprocessor'] = dict(type='SegDataPreProcessor', size=(64, 96))
    cfg['test_cfg'] = dict(mode='slide', crop_size=(64, 96), stride=(32, 32))
    build_and_check(cfg)
    build_and_check(dict(cfg, test_cfg=dict(mode='whole')))
    cfg['backbone'] = dict(BACKBONE, patch_size=14, img_size=28)
    expected = r'data_preprocessor\.size=\(64, 96\) is no multiple of patch_size=14.*\(70, 98\)'
    with pytest.raises(UserError, match=expected):
        build_and_check(cfg)
    cfg['data_preprocessor'].update(size=(70, 98))
    with pytest.raises(UserError, match=r'test_cfg\.crop_size=\(64, 96\).*Choose \(70, 98\)'):
        build_and_check(cfg)
    cfg['test_cfg'].update(crop_size=(70, 98))
    build_and_check(cfg)


def test_what_is_left_of_the_start_of_another_backbone_is_told():
    cfg = dict(segmentor(), pretrained='open-mmlab://resnet50_v1c')
    with pytest.raises(UserError, match=r'resnet50_v1c.*Set pretrained=None.*backbone\.init_cfg'):
        checks.build_model(Config(dict(model=cfg)))
    assert checks.build_model(Config(dict(model=dict(segmentor(), pretrained=None))))
    cfg = dict(detector(), pretrained='torchvision://resnet50')
    with pytest.raises(UserError, match=r'resnet50.*Leave it out.*model\.backbone\.init_cfg'):
        checks.build_model(Config(dict(model=cfg)))


@pytest.mark.parametrize(
    'init_cfg, words',
    [
        (dict(type='TruncNorml', layer='Linear'), 'TruncNorml is not in'),
        (dict(type='TruncNormal', layer='Linear', st=1), 'unexpected keyword argument .st'),
        (dict(type='TruncNormal', layer=5), 'layer must be a str'),
        (dict(type=5), 'type must be a str'),
    ],
)
def test_initialisers_are_built_before_a_run_and_named_with_their_part(init_cfg, words):
    cfg = segmentor()
    for part in ('backbone', 'decode_head'):
        wrong = {**cfg, part: dict(cfg[part], init_cfg=init_cfg)}
        model = checks.build_model(Config(dict(model=wrong)))
        with pytest.raises(
            UserError, match=rf'init_cfg of model\.{part} cannot be built: .*{words}'
        ):
            checks.check_initialisers(model)
    right = dict(type='TruncNormal', layer='Linear', std=0.01, override=dict(name='conv_seg'))
    cfg['decode_head'] = dict(cfg['decode_head'], init_cfg=right)
    checks.check_initialisers(checks.build_model(Config(dict(model=cfg))))
