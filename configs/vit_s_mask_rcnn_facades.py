_base_ = './kat_s_mask_rcnn_facades.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
