_base_ = [
    './_base_/models/kat_upernet.py',
    './_base_/datasets/cityscapes.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

num_classes = 19
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(img_size=_base_.crop_size, init_cfg=dict(checkpoint='kat_s_in1k')),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
    test_cfg=dict(crop_size=_base_.crop_size, stride=(341, 683)),
)
