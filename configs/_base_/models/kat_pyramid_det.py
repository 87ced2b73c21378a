# How a plain backbone meets a detector, as in ViTDet: windows, four global blocks, and a pyramid of
# the last map. A config of a head may take fewer levels of it.
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='KAT',
        arch='small',
        img_size=1024,
        patch_size=16,
        drop_path_rate=0.1,
        ffn_cfg=dict(type='GRKAN'),
        window_size=14,
        global_attn_indices=(2, 5, 8, 11),
        use_rel_pos=True,
        with_cls_token=False,
        final_norm=False,
        out_type='featmap',
        # From scratch; or the name of a published model, a file or a URL: docs/weights.md
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=dict(type='SimpleFeaturePyramid', in_channels=384),
)
