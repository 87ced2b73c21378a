# KAT's recipe on ImageNet-1k: AdamW, 1e-3, total batch 1024 (8 GPUs x 128), 300 epochs, of which 5
# warm up, in mixed precision.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    # The published models were trained with decay on the coefficients of rational functions too.
    paramwise_cfg=dict(
        custom_keys=dict(
            weight_numerator=dict(decay_mult=1.0), weight_denominator=dict(decay_mult=1.0)
        )
    ),
)
# timm's cosine over all 300 epochs; the first five are scaled down, from 1e-5 up, epoch by epoch.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=6),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=300, by_epoch=True, begin=0, end=300),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=1024)
