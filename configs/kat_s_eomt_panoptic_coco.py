_base_ = [
    './_base_/models/kat_eomt.py',
    './_base_/datasets/coco_panoptic.py',
    './_base_/detection_runtime.py',
    './_base_/schedules/eomt_coco.py',
]

# A name, a file, a URL, or checkpoint=None for from scratch: docs/checkpoints.md
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='kat_s_in1k')),
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchFixedSizePad',
                size=_base_.image_size,
                pad_mask=True,
                pad_seg=True,
                seg_pad_value=255,
            )
        ]
    ),
)
custom_hooks = [*_base_.custom_hooks, _base_.mask_annealing]
default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ'))
