# Cascade R-CNN's three stages of boxes, each stricter than the one before.
_base_ = './kat_mask_rcnn.py'

stds = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
ious = (0.5, 0.6, 0.7)
box_head = {
    **_base_.model.roi_head.bbox_head,
    'reg_class_agnostic': True,
    'loss_bbox': dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
}
box_coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4)
rcnn = _base_.model.train_cfg.rcnn
iou_thresholds = [dict(pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou) for iou in ious]

model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[{**box_head, 'bbox_coder': {**box_coder, 'target_stds': std}} for std in stds],
    ),
    train_cfg=dict(
        rpn_proposal=dict(max_per_img=2000),
        rcnn=[{**rcnn, 'assigner': {**rcnn['assigner'], **iou}} for iou in iou_thresholds],
    ),
)
