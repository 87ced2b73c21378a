_base_ = [
    './_base_/models/kat_pyramid_det.py',
    './_base_/models/mask2former_head.py',
    './_base_/datasets/coco_lsj_640.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

model = dict(
    type='Mask2Former',
    backbone=dict(img_size=_base_.image_size, init_cfg=dict(checkpoint='kat_s_in1k')),
    neck=dict(num_outs=4),
    panoptic_head=dict(
        type='Mask2FormerHead',
        in_channels=[256] * 4,
        num_things_classes=80,
        num_stuff_classes=0,
        **_base_.mask2former_head,
    ),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead', num_things_classes=80, num_stuff_classes=0
    ),
    train_cfg=_base_.mask2former_matching,
    test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=100),
)
model['panoptic_head']['loss_cls']['class_weight'] = [1.0] * 80 + [0.1]
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
