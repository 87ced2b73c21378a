_base_ = './kat_t_mask_rcnn_coco.py'

model = dict(backbone=dict(ffn_cfg=dict(type='MLP'), init_cfg=dict(checkpoint='deit_t_in1k')))
