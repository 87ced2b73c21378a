_base_ = './vit_t_karat_in1k.py'

# G1B: G = 1 as published for this size.
model = dict(
    backbone=dict(arch='base', attn_cfg=dict(basis=dict(grid=1))), head=dict(in_channels=768)
)
