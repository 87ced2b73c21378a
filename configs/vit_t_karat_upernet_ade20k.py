# From scratch: no published model has KArAt's operators.
_base_ = './vit_t_upernet_ade20k.py'

model = dict(backbone=dict(attn_cfg=dict(type='KArAt'), init_cfg=dict(checkpoint=None)))
