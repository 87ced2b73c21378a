# A data set of one's own: images and label images in two folders, classes named here.
# 367 training and 101 validation frames of 480x360; label 11 is unlabelled.
_base_ = './label_images.py'

dataset_type = 'BaseSegDataset'
data_root = 'data/camvid'
metainfo = dict(
    classes=(
        'sky',
        'building',
        'pole',
        'road',
        'pavement',
        'tree',
        'sign symbol',
        'fence',
        'car',
        'pedestrian',
        'bicyclist',
    ),
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
# 360 rows are not a whole number of patches: 8 more are padding, which has no label.
crop_size = (368, 480)
steps = dict(
    CheckLabels=dict(num_classes=len(metainfo['classes']), unlabelled=(11,)),
    RandomResize=dict(scale=(480, 360)),
    RandomCrop=dict(crop_size=crop_size),
)
train_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **steps.get(step['type'], {})) for step in _base_.test_pipeline]

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
