_base_ = './kat_s_eomt_ade20k.py'

model = dict(backbone=dict(arch='base'), decode_head=dict(in_channels=768))
