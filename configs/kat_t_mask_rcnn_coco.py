_base_ = './kat_s_mask_rcnn_coco.py'

model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(checkpoint='kat_t_in1k')),
    neck=dict(in_channels=192),
)
