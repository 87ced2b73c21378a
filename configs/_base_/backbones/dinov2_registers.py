# DINOv2 with registers (Darcet et al. 2024). Sizes as of dinov2.py.
_base_ = './dinov2.py'

backbone = dict(num_registers=4, pos_interpolation='bicubic_antialias')
