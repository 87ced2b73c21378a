# KAT-S with UperNet. Blocks 2, 5, 8 and 11 give strides 4, 8, 16 and 32 through Feature2Pyramid.
norm_cfg = dict(type='SyncBN', requires_grad=True)
embed_dims = 384
model = dict(
    type='EncoderDecoder',
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
        drop_path_rate=0.1,
        ffn_cfg=dict(type='GRKAN'),
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        # From scratch; or the name of a published model, a file or a URL: docs/weights.md
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=dict(
        type='Feature2Pyramid', embed_dim=embed_dims, rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[embed_dims] * 4,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=embed_dims,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
