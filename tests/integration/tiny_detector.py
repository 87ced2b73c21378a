# kat_t_mask_rcnn_sample.py with a tiny model, few small images, an average of the weights, drop
# path, and a checkpoint at every second iteration.
TINY = """
_base_ = {base!r}

custom_imports = dict(imports=['kat_mm', 'stop_hook'], allow_failed_imports=False)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='StopHook'),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.1),
]
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
        ),
        window_size=3,
        global_attn_indices=(1, 3),
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=32),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(max_per_img=20)),
)
pipelines = _base_.train_pipeline, _base_.test_pipeline
[
    transform.update(scale=(96, 64))
    for pipeline in pipelines
    for transform in pipeline
    if transform['type'] == 'Resize'
]
data_root = {data_root!r}
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{{data_root}}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_iters=4, val_interval=4)
param_scheduler = [dict(type='PolyLR', by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""
