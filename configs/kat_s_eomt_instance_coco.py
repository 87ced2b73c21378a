_base_ = [
    './_base_/models/kat_eomt.py',
    './_base_/datasets/coco_lsj_640.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/eomt_coco.py',
]

# A name, a file, a URL, or checkpoint=None for from scratch: docs/checkpoints.md
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    data_preprocessor=dict(
        pad_seg=False,
        batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size, pad_mask=True)],
    ),
    panoptic_head=dict(num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * 80 + [0.1])),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False, instance_on=True),
)
custom_hooks = [*_base_.custom_hooks, _base_.mask_annealing]
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
