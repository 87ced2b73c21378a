# MAE B with UperNet, fine-tuned.
_base_ = ['./kat_b_upernet_ade20k.py', './_base_/backbones/mae.py']

checkpoint = 'mae_b'
model = dict(
    data_preprocessor=_base_.pixels,
    backbone={
        **_base_.backbone,
        '_delete_': True,
        'drop_path_rate': 0.1,
        'out_indices': (2, 5, 8, 11),
        'out_type': 'featmap',
        'img_size': 512,
        'init_cfg': dict(type='Pretrained', checkpoint=checkpoint),
    },
)
# As mmseg has it for MAE, so that what was learned is not lost.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
