_base_ = './kat_s_upernet_ade20k.py'

embed_dims = 768
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='kat_b_in1k')),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims),
)
