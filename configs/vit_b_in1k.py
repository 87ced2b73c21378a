_base_ = './kat_b_in1k.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
