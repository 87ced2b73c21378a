# The same recipe from an AugReg ViT of the same size, whose function it starts with: act2 as the
# GELU that the ViT has, and images normalised as they were for the ViT.
_base_ = './kat_s_in1k.py'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(ffn_cfg=dict(act_init=('identity', 'gelu'))),
)
# The ViT's head too, where it has 1000 classes. A name, a file or a URL: docs/weights.md
load_from = 'augreg_s_in1k'
