_base_ = './kat_b_eomt_instance_coco.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP'), init_cfg=dict(checkpoint='deit_b_in1k')))
