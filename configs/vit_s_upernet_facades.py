_base_ = './kat_s_upernet_facades.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
