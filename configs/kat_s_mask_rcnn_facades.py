# A data set of one's own with polygons, on one GPU: see _base_/datasets/facades.py.
_base_ = [
    './_base_/models/kat_mask_rcnn.py',
    './_base_/datasets/facades.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

num_classes = 10
model = dict(
    backbone=dict(img_size=640),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
    # Some photographs show more than 100 objects.
    test_cfg=dict(rcnn=dict(max_per_img=200)),
)

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(lr=2e-4), clip_grad=dict(max_norm=1.0)
)
max_iters = 5000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=250, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500, max_keep_ckpts=1, save_best='segm/segm_mAP'))
auto_scale_lr = dict(base_batch_size=8)
