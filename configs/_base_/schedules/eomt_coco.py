# 24 epochs of COCO's 118,287 images. Masks go block by block, each over 4 of them.
_base_ = './eomt.py'

epoch = 7393
max_iters = 24 * epoch
param_scheduler = [
    dict(type='TwoWarmupsPolyLR', head_iters=500, backbone_iters=1000, end=max_iters)
]
mask_annealing = dict(
    type='MaskAnnealingHook',
    begin=[4 * epoch, 10 * epoch, 16 * epoch],
    end=[8 * epoch, 14 * epoch, 20 * epoch],
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2 * epoch)
