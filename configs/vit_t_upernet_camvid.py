_base_ = './kat_t_upernet_camvid.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
