# ViTDet's recipe for B: AdamW, 1e-4, total batch 64 (16 GPUs x 4), 100 epochs, layer-wise decay.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    # Fused: one launch for a group, and a loss scale that nobody waits for.
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True),
    # Weight decay spares the backbone's norms and positions alone (detectron2's rule).
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        bias_decay_mult=1.0,
        custom_keys={key: dict(decay_mult=1.0) for key in ('rel_pos', 'neck.', 'roi_head.')},
    ),
)
max_iters = 184_375
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=250,
        end=max_iters,
        milestones=[163_889, 177_546],
        gamma=0.1,
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10_000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=64)
