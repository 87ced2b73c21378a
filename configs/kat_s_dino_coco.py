# DINO (Zhang et al., ICLR 2023) as of mmdet, with four levels.
_base_ = [
    './_base_/models/kat_pyramid_det.py',
    './_base_/datasets/coco_instance.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

num_levels = 4
encoder = dict(embed_dims=256, num_levels=num_levels, dropout=0.0)
ffn = dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0)
model = dict(
    type='DINO',
    num_queries=900,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=dict(pad_mask=False),
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    neck=dict(scales=(2, 1, 0.5), num_outs=num_levels),
    encoder=dict(num_layers=6, layer_cfg=dict(self_attn_cfg=encoder, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=6,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.0),
            cross_attn_cfg=encoder,
            ffn_cfg=ffn,
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=128, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type='DINOHead',
        num_classes=80,
        sync_cls_avg_factor=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=300),
)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
optim_wrapper = dict(clip_grad=dict(max_norm=0.1))
