# Panoptic FPN (Kirillov et al., CVPR 2019) as of mmdet.
_base_ = [
    './_base_/models/kat_mask_rcnn.py',
    './_base_/datasets/coco_panoptic.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    backbone=dict(img_size=_base_.image_size, init_cfg=dict(checkpoint='kat_s_in1k')),
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=80,
        num_stuff_classes=53,
        in_channels=256,
        inner_channels=128,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True),
        conv_cfg=None,
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5),
    ),
    panoptic_fusion_head=dict(
        type='HeuristicFusionHead', num_things_classes=80, num_stuff_classes=53
    ),
    test_cfg=dict(
        rcnn=dict(score_thr=0.6, nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=4096),
    ),
)
default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ'))
