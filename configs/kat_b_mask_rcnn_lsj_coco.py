_base_ = [
    './_base_/models/kat_mask_rcnn.py',
    './_base_/datasets/coco_lsj.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/vitdet_100e.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size, pad_mask=True)]
    ),
    backbone=dict(arch='base', init_cfg=dict(checkpoint='kat_b_in1k')),
    neck=dict(in_channels=768),
)
