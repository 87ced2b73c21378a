# DINOv2 (Oquab et al. 2023), in the layouts of its authors, timm and transformers. arch 'small',
# 'base' or 'large'; g is dict(embed_dims=1536, num_layers=40, num_heads=24,
# feedforward_channels=4096) with ffn_cfg=dict(type='SwiGLU').
backbone = dict(
    type='KAT',
    arch='base',
    img_size=518,
    patch_size=14,
    layer_scale=1e-5,
    pos_interpolation='bicubic_offset',
    attn_cfg=dict(type='SoftmaxAttention', init='trunc_normal'),
    ffn_cfg=dict(type='MLP'),
)
# Of the pixels, as data_preprocessor has them.
pixels = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
