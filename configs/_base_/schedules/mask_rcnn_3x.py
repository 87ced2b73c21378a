# KAT's recipe on COCO: AdamW, 1e-4, total batch 16 (8 GPUs x 2), 36 epochs of 117,266 images.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    # Fused: one launch for a group, and a loss scale that nobody waits for.
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
)
epoch = 7330
max_iters = 36 * epoch
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=1000,
        end=max_iters,
        milestones=[27 * epoch, 33 * epoch],
        gamma=0.1,
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=3 * epoch)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
