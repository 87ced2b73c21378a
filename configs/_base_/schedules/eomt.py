# EoMT's recipe: AdamW, 1e-4, total batch 16, decay by layers of 0.8 from the last block, weight
# decay of all parameters but the coefficients of rational functions, gradients clipped at 0.01. The
# heads warm up over 500 iterations, then the backbone over 1000. Times follow in each config.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        layer_decay_rate=0.8,
        layer_decay_from='last_block',
        split_backbone=True,
        custom_keys={
            '': dict(decay_mult=1.0),
            'weight_numerator': dict(decay_mult=0.0),
            'weight_denominator': dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=0.01),
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
