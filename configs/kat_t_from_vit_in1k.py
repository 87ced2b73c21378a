_base_ = './kat_s_from_vit_in1k.py'

model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=192))
load_from = 'checkpoints/vit_t16_augreg.npz'
