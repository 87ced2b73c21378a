# COCO 2017 with panoptic maps, large-scale jitter in squares of 640 pixels.
_base_ = './coco_lsj_640.py'

dataset_type = 'CocoPanopticDataset'
data_root = 'data/coco'
load = dict(type='kat_mm.LoadPanopticAnnotations')
# A crop without an object has regions.
keep = dict(FilterAnnotations=dict(keep_empty=False))
train_pipeline = [
    load if step['type'] == 'LoadAnnotations' else dict(step, **keep.get(step['type'], {}))
    for step in _base_.train_pipeline
]
test_pipeline = [
    load if step['type'] == 'LoadAnnotations' else step for step in _base_.test_pipeline
]
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017', seg='annotations/panoptic_train2017'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017', seg='annotations/panoptic_val2017'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='kat_mm.PanopticQuality',
    ann_file=f'{data_root}/annotations/panoptic_val2017.json',
    seg_prefix=f'{data_root}/annotations/panoptic_val2017',
)
test_evaluator = val_evaluator
