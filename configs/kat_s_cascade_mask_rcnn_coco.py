_base_ = [
    './_base_/models/kat_cascade_mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]

# Published; a file, a URL, or None for from scratch: docs/weights.md
model = dict(backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')))
