_base_ = './kat_s_from_vit_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.4), head=dict(in_channels=768))
load_from = 'augreg_b_in1k'
