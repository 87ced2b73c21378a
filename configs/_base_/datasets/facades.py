# Photographs of buildings, 640x640, polygons of 10 classes, after tools/prepare_coco_export.py:
# github.com/a-hwang/building-facade-segmentation, CC BY 4.0. 407 for training, 108 for validation.
_base_ = ['./coco_lsj_640.py', './facades_classes.py']

data_root = 'data/facade'
steps = dict(
    RandomResize=dict(ratio_range=(0.5, 2.0)), FilterAnnotations=dict(min_gt_bbox_wh=(2, 2))
)
train_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.train_pipeline]
train_pipeline.insert(-1, dict(type='PhotoMetricDistortion'))
# They are squares already.
test_pipeline = [step for step in _base_.test_pipeline if step['type'] != 'Pad']

train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root=data_root,
        metainfo=_base_.metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train'),
        filter_cfg=dict(_delete_=True, filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root=data_root,
        metainfo=_base_.metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# One for each, since a metric gives AP of each class once.
val_evaluator = [
    dict(
        type='CocoMetric',
        ann_file=f'{data_root}/annotations/val.json',
        metric=metric,
        prefix=metric,
        classwise=True,
    )
    for metric in ('bbox', 'segm')
]
test_evaluator = val_evaluator
