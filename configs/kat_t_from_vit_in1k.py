_base_ = './kat_s_from_vit_in1k.py'

model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=192))
load_from = 'augreg_t_in1k'
