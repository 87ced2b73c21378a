# DINOv3 S+ and, with arch=dict(embed_dims=1280, num_layers=32, num_heads=20,
# feedforward_channels=5120), H+.
_base_ = './dinov3.py'

backbone = dict(arch='small', ffn_cfg=dict(type='SwiGLU'))
