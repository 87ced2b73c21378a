_base_ = [
    './_base_/models/kat_upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/segmentation_runtime.py',
]

# Published; a file, a URL, or None for from scratch: docs/weights.md
model = dict(backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')))
