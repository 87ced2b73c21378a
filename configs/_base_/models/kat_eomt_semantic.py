# KAT-S with EoMT, label maps of ADE20K: 100 queries through the last three blocks.
_base_ = './mask2former_loss.py'

model = dict(
    type='kat_mm.EoMTSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='KAT',
        arch='small',
        img_size=512,
        patch_size=16,
        ffn_cfg=dict(type='GRKAN'),
        out_type='featmap',
        # From scratch; or the name of a published model, a file or a URL: docs/weights.md
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    decode_head=dict(
        type='kat_mm.EoMTSemanticHead',
        in_channels=384,
        num_classes=150,
        num_queries=100,
        num_blocks=3,
        patch_size=16,
        **{
            name: dict(loss, type=f'mmdet.{loss["type"]}')
            for name, loss in _base_.mask2former_loss.items()
        },
        train_cfg=_base_.mask2former_matching,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
model['decode_head']['loss_cls']['class_weight'] = [1.0] * 150 + [0.1]
