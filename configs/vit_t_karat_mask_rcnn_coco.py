# KArAt in windows and global blocks, without relative positions: its operators belong to positions.
# From scratch: no published model has them.
_base_ = './vit_t_mask_rcnn_coco.py'

model = dict(
    backbone=dict(use_rel_pos=False, attn_cfg=dict(type='KArAt'), init_cfg=dict(checkpoint=None))
)
