_base_ = './kat_s_eomt_instance_coco.py'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='kat_b_in1k')),
    panoptic_head=dict(in_channels=768),
)
