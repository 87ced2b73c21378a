_base_ = './kat_s_in1k.py'

model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=192))
