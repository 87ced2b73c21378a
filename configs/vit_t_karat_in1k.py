_base_ = [
    './_base_/models/vit_karat.py',
    './_base_/datasets/imagenet_deit.py',
    './_base_/classification_runtime.py',
    './_base_/schedules/deit_100e.py',
]
