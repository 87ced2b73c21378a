# DINOv2 B with UperNet, fine-tuned.
_base_ = ['./kat_b_upernet_ade20k.py', './_base_/backbones/dinov2.py']

checkpoint = 'dinov2_b'
# A multiple of the patch, to which crops of 512 pixels are padded.
crop_size = (518, 518)
model = dict(
    data_preprocessor=dict(**_base_.pixels, size=crop_size),
    backbone={
        **_base_.backbone,
        '_delete_': True,
        'drop_path_rate': 0.1,
        'out_indices': (2, 5, 8, 11),
        'out_type': 'featmap',
        'norm_intermediate': True,
        'init_cfg': dict(type='Pretrained', checkpoint=checkpoint),
    },
    test_cfg=dict(crop_size=crop_size, stride=(345, 345)),
)
# BEiT's and MAE's rule, so that what was learned is not lost.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
