# MAE B with Mask R-CNN, as ViTDet, fine-tuned.
_base_ = ['./kat_b_mask_rcnn_lsj_coco.py', './_base_/backbones/mae.py']

checkpoint = 'mae_b'
model = dict(
    data_preprocessor=_base_.pixels,
    backbone={
        **_base_.backbone,
        '_delete_': True,
        'drop_path_rate': 0.1,
        'img_size': 1024,
        'window_size': 14,
        'global_attn_indices': (2, 5, 8, 11),
        'use_rel_pos': True,
        'with_cls_token': False,
        'final_norm': False,
        'out_type': 'featmap',
        'init_cfg': dict(type='Pretrained', checkpoint=checkpoint),
    },
)
