# DINOv3 (Simeoni et al. 2025): ViT-S, B and L, in the layouts of its authors, timm and
# transformers. arch 'small', 'base' or 'large'. The authors' files hold periods rounded to
# bfloat16, which are computed with.
backbone = dict(
    type='KAT',
    arch='base',
    img_size=224,
    patch_size=16,
    num_registers=4,
    with_pos_embed=False,
    norm_eps=1e-5,
    layer_scale=1e-5,
    attn_cfg=dict(
        type='SoftmaxAttention',
        qkv_bias='qv',
        rope=dict(base=100.0, coordinates='centers', rotation='halves'),
        init='trunc_normal',
    ),
    ffn_cfg=dict(type='MLP'),
)
pixels = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
