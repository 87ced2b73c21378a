_base_ = './kat_s_eomt_instance_coco.py'

model = dict(backbone=dict(arch='base'), panoptic_head=dict(in_channels=768))
