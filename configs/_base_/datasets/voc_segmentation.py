# Pascal VOC 2012, segmentation, 21 classes with the background.
_base_ = './label_images.py'

dataset_type = 'PascalVOCDataset'
data_root = 'data/VOCdevkit/VOC2012'
steps = dict(CheckLabels=dict(num_classes=21))
train_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.test_pipeline]
# In front of the labels: predictions are compared with the truth at its own size.
test_pipeline.insert(1, dict(type='Resize', scale=(2048, 512), keep_ratio=True))

train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Segmentation/train.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
