# Small enough for two CPU cores: drawn scenes in COCO's layout (tools/make_sample_data.py), 4 of
# its classes, small images, a narrow backbone and slim heads.
_base_ = './kat_t_mask_rcnn_coco.py'

# What the scenes show often, and large enough.
classes = ('person', 'car', 'boat', 'sheep')
scale = (128, 96)
embed_dims = 96
channels = 64
strides = [4, 8, 16, 32]
model = dict(
    # Patches of 8 pixels for small objects: the map itself has stride 8.
    backbone=dict(
        arch=dict(
            embed_dims=embed_dims,
            num_layers=12,
            num_heads=3,
            feedforward_channels=4 * embed_dims,
            _delete_=True,
        ),
        img_size=scale[::-1],
        patch_size=8,
        window_size=6,
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint=None),
    ),
    neck=dict(
        in_channels=embed_dims, out_channels=channels, scales=(2, 1, 0.5), num_outs=len(strides)
    ),
    rpn_head=dict(
        num_convs=1,
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], strides=strides),
    ),
    # Few objects are seen: all classes learn the same boxes and masks.
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=strides[:3]),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=channels,
            fc_out_channels=256,
            num_classes=len(classes),
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=channels, featmap_strides=strides[:3]),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=len(classes),
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(score_thr=0.01)),
)

train_pipeline = [
    dict(type='SeedAugmentation'),
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

data_root = 'data/sample/coco'
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(group_size=4),
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=6e-4), clip_grad=dict(max_norm=1.0))
max_iters = 360
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=20, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_iters // 2, save_best=None)
)
