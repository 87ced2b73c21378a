_base_ = [
    './_base_/models/kat_mask_rcnn.py',
    './_base_/datasets/voc_detection.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

epoch = 1035  # 16,551 images
max_iters = 12 * epoch
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    roi_head=dict(bbox_head=dict(num_classes=20), mask_roi_extractor=None, mask_head=None),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=500,
        end=max_iters,
        milestones=[9 * epoch, 11 * epoch],
        gamma=0.1,
    ),
]
train_cfg = dict(max_iters=max_iters, val_interval=epoch)
default_hooks = dict(checkpoint=dict(save_best='pascal_voc/mAP'))
