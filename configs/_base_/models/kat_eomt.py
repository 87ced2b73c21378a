# KAT-S with EoMT, panoptic segmentation of COCO: 200 queries through the last three blocks.
_base_ = './mask2former_loss.py'

num_things_classes, num_stuff_classes = 80, 53
model = dict(
    type='kat_mm.EoMT',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_seg=True,
        seg_pad_value=255,
        pad_size_divisor=16,
    ),
    backbone=dict(
        type='KAT',
        arch='small',
        img_size=640,
        patch_size=16,
        ffn_cfg=dict(type='GRKAN'),
        out_type='featmap',
        # From scratch; or the name of a published model, a file or a URL: docs/weights.md
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    panoptic_head=dict(
        type='kat_mm.EoMTHead',
        in_channels=384,
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        num_queries=200,
        num_blocks=3,
        patch_size=16,
        **_base_.mask2former_loss,
    ),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead',
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
    ),
    train_cfg=_base_.mask2former_matching,
    test_cfg=dict(
        panoptic_on=True,
        instance_on=False,
        object_mask_thr=0.8,
        iou_thr=0.8,
        filter_low_score=True,
        max_per_image=100,
    ),
)
model['panoptic_head']['loss_cls']['class_weight'] = [1.0] * 133 + [0.1]
