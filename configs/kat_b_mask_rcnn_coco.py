_base_ = './kat_s_mask_rcnn_coco.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=768))
