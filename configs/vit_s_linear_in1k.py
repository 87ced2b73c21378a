_base_ = './kat_s_linear_in1k.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
