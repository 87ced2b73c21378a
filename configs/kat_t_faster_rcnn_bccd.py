# A data set of one's own, boxes alone, from scratch on one GPU: see _base_/datasets/bccd.py.
_base_ = [
    './_base_/models/kat_mask_rcnn.py',
    './_base_/datasets/bccd.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

num_classes = 3
channels = 128
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    backbone=dict(arch='tiny', img_size=_base_.image_size[::-1]),
    neck=dict(in_channels=192, out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=512,
            num_classes=num_classes,
        ),
        mask_roi_extractor=None,
        mask_head=None,
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=500), rcnn=dict(sampler=dict(num=256))
    ),
    test_cfg=dict(rpn=dict(max_per_img=500)),
)

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1.0)
)
max_iters = 2000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=250)
default_hooks = dict(checkpoint=dict(interval=max_iters))
auto_scale_lr = dict(base_batch_size=8)
