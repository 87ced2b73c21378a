# DINOv3 B with EoMT, objects of COCO.
_base_ = [
    './kat_b_eomt_instance_coco.py',
    './_base_/backbones/dinov3.py',
    './_base_/schedules/eomt_dinov3.py',
]

# No name of a download: its authors give the file to those who accept its licence. Put its path
# here.
checkpoint = 'dinov3_b'
model = dict(
    data_preprocessor=_base_.pixels,
    backbone={
        **_base_.backbone,
        '_delete_': True,
        'img_size': 640,
        'out_type': 'featmap',
        'init_cfg': dict(type='Pretrained', checkpoint=checkpoint),
    },
)
optim_wrapper = _base_.eomt_dinov3
param_scheduler = [dict(_base_.param_scheduler[0], **_base_.eomt_dinov3_warm_ups)]
*others, annealing = _base_.custom_hooks
custom_hooks = [
    *others,
    dict(
        annealing,
        begin=[0, *annealing.begin[1:]],
        end=[_base_.eomt_dinov3_warm_ups.backbone_iters, *annealing.end[1:]],
    ),
]
