_base_ = './kat_s_eomt_instance_facades.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
