# How a plain backbone meets a segmentor: blocks 2, 5, 8 and 11 give strides 4, 8, 16 and 32 through
# Feature2Pyramid.
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
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
