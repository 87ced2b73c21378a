# DeiT-III (Touvron et al. 2022), in the layouts of its authors and timm: 'small', 'base',
# 'large'.
backbone = dict(
    type='KAT',
    arch='base',
    img_size=224,
    patch_size=16,
    layer_scale=1e-6,
    attn_cfg=dict(type='SoftmaxAttention', init='trunc_normal'),
    ffn_cfg=dict(type='MLP'),
)
pixels = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
