_base_ = [
    './_base_/models/vit_karat.py',
    './_base_/datasets/svhn_224.py',
    './_base_/classification_runtime.py',
    './_base_/schedules/deit_100e.py',
]

model = dict(data_preprocessor=dict(num_classes=10), head=dict(num_classes=10))
