# Cityscapes, 2048x1024, 19 classes, after mmseg's converter of its label images.
_base_ = './label_images.py'

dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes'
crop_size = (512, 1024)
steps = dict(
    CheckLabels=dict(num_classes=19),
    RandomResize=dict(scale=(2048, 1024)),
    RandomCrop=dict(crop_size=crop_size),
)
train_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.test_pipeline]

train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
