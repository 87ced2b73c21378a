# The same for data sets that hold images and not files, resized to 224.
_base_ = './imagenet_deit.py'

train_pipeline = [step for step in _base_.train_pipeline if step['type'] != 'LoadImageFromFile']
test_pipeline = [step for step in _base_.test_pipeline if step['type'] != 'LoadImageFromFile']
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
