_base_ = './kat_s_eomt_ade20k.py'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='kat_b_in1k')),
    decode_head=dict(in_channels=768),
)
