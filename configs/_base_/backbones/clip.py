# Image towers of OpenCLIP, and of OpenAI's CLIP with ffn_cfg=dict(act='quick_gelu'), which no
# file tells, in the layouts of both, timm and transformers. L and patches of 14: arch='large',
# patch_size=14.
backbone = dict(
    type='KAT',
    arch='base',
    img_size=224,
    patch_size=16,
    pre_norm=True,
    norm_eps=1e-5,
    pos_interpolation='bicubic_antialias',
    attn_cfg=dict(type='SoftmaxAttention', init='trunc_normal'),
    ffn_cfg=dict(type='MLP', act='gelu'),
)
pixels = dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323])
