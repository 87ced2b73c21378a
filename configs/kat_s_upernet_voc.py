_base_ = [
    './_base_/models/kat_upernet.py',
    './_base_/datasets/voc_segmentation.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

num_classes = 21
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
)
