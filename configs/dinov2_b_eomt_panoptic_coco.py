# DINOv2 B with registers and EoMT, panoptic maps of COCO.
_base_ = ['./kat_b_eomt_panoptic_coco.py', './_base_/backbones/dinov2_registers.py']

model = dict(
    data_preprocessor=_base_.pixels,
    backbone={
        **_base_.backbone,
        '_delete_': True,
        'img_size': 640,
        'patch_size': 16,  # resized from 14, as the authors do
        'out_type': 'featmap',
        'init_cfg': dict(type='Pretrained', checkpoint='dinov2_b_reg'),
    },
)
