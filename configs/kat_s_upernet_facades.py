# A data set of one's own, polygons as label images: see _base_/datasets/facades_semantic.py.
_base_ = [
    './_base_/models/kat_upernet.py',
    './_base_/datasets/facades_semantic.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

num_classes = 10
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
    test_cfg=dict(mode='whole', _delete_=True),
)

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(lr=2e-4), clip_grad=dict(max_norm=1.0)
)
max_iters = 5000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=250, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500, max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=16)
