# FCOS (Tian et al., ICCV 2019) as of mmdet.
_base_ = [
    './_base_/models/kat_pyramid_det.py',
    './_base_/datasets/coco_instance.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

model = dict(
    type='FCOS',
    data_preprocessor=dict(pad_mask=False),
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    neck=dict(scales=(2, 1, 0.5), num_outs=5),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
