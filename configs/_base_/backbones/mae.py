# MAE (He et al. 2022), in the layouts of its authors, timm and transformers: 'base', 'large'.
# Files of fine-tuned models have fc_norm, behind the pooling, in the place of the final norm:
# final_norm=False.
backbone = dict(
    type='KAT',
    arch='base',
    img_size=224,
    patch_size=16,
    attn_cfg=dict(type='SoftmaxAttention', init='trunc_normal'),
    ffn_cfg=dict(type='MLP'),
)
pixels = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
