_base_ = [
    './_base_/models/kat_upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]
