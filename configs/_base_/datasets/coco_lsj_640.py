# COCO 2017 with large-scale jitter in squares of 640 pixels.
_base_ = './coco_lsj.py'

image_size = (640, 640)
sizes = dict(
    RandomResize=dict(scale=image_size),
    RandomCrop=dict(crop_size=image_size),
    Resize=dict(scale=image_size),
    Pad=dict(size=image_size),
)
train_pipeline = [dict(step, **sizes.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **sizes.get(step['type'], {})) for step in _base_.test_pipeline]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
