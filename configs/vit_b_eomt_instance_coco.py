_base_ = './kat_b_eomt_instance_coco.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
