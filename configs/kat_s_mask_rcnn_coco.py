_base_ = [
    './_base_/models/kat_mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/mask_rcnn_3x.py',
]
