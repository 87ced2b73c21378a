# The polygons of facades.py as label images, the smaller ones over the larger: see
# tools/prepare_coco_export.py. 255 is in no polygon.
_base_ = ['./label_images.py', './facades_classes.py']

dataset_type = 'BaseSegDataset'
data_root = 'data/facade'
steps = dict(
    CheckLabels=dict(num_classes=len(_base_.metainfo['classes'])),
    RandomResize=dict(scale=(640, 640)),
)
train_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.test_pipeline]

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=_base_.metainfo,
        data_prefix=dict(img_path='train', seg_map_path='labels/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=_base_.metainfo,
        data_prefix=dict(img_path='val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
