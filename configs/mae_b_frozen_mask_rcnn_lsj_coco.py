# MAE B with Mask R-CNN, of which all but the backbone is trained. Without windows, in which it
# was not pretrained.
_base_ = './mae_b_mask_rcnn_lsj_coco.py'

model = dict(
    backbone=dict(
        frozen_stages=12,
        drop_path_rate=0.0,
        window_size=0,
        global_attn_indices=(),
        use_rel_pos=False,
    )
)
