_base_ = [
    './_base_/models/kat_pyramid_seg.py',
    './_base_/models/mask2former_head.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

losses = {
    name: dict(loss, type=f'mmdet.{loss["type"]}')
    for name, loss in _base_.mask2former_head.items()
    if name.startswith('loss_')
}
losses['loss_cls']['class_weight'] = [1.0] * 150 + [0.1]
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    decode_head=dict(
        type='Mask2FormerHead',
        in_channels=[_base_.embed_dims] * 4,
        num_classes=150,
        num_things_classes=150,
        num_stuff_classes=0,
        **{**_base_.mask2former_head, **losses},
        train_cfg=_base_.mask2former_matching,
    ),
)
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
# Its deformable attention samples maps in float32.
custom_hooks = [*_base_.custom_hooks, dict(type='Float32BoxesHook')]
