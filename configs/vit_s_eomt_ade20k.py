_base_ = './kat_s_eomt_ade20k.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP'), init_cfg=dict(checkpoint='deit_s_in1k')))
