# DINOv2 B, of which a linear head alone is trained.
_base_ = ['./kat_s_linear_in1k.py', './_base_/backbones/dinov2.py']

model = dict(
    data_preprocessor=_base_.pixels,
    backbone={
        **_base_.backbone,
        '_delete_': True,
        'out_type': 'cls_token',
        'frozen_stages': 12,
        'init_cfg': dict(type='Pretrained', checkpoint='dinov2_b'),
    },
    head=dict(in_channels=768),
)
