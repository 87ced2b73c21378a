_base_ = './kat_s_mask_rcnn_coco.py'

model = dict(backbone=dict(arch='tiny'), neck=dict(in_channels=192))
