# ViT-T with KArAt, Fourier basis, G = 3, an operator for each block (G3B), and DeiT's start.
_base_ = './kat_classifier.py'

model = dict(
    backbone=dict(
        arch='tiny',
        ffn_cfg=dict(type='MLP'),
        attn_cfg=dict(
            type='KArAt',
            basis=dict(type='fourier', grid=3),
            depth=2,
            modular='phi1_w2',
            rank=12,
            mode='blockwise',
            init='trunc_normal',
        ),
    ),
    head=dict(in_channels=192),
)
