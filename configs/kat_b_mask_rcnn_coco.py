_base_ = './kat_s_mask_rcnn_coco.py'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='kat_b_in1k')),
    neck=dict(in_channels=768),
)
