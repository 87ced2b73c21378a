_base_ = './kat_t_faster_rcnn_bccd.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP')))
