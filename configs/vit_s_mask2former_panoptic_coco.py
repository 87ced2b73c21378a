_base_ = './kat_s_mask2former_panoptic_coco.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP'), init_cfg=dict(checkpoint='deit_s_in1k')))
