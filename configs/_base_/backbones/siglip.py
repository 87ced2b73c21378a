# SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025) of fixed sizes, in the layouts of
# OpenCLIP, timm and transformers. The attention pooling is left out. The authors' code has GELU
# by tanh (act='gelu_tanh', as transformers), timm's GELU itself; no file tells which. so400m:
# arch=dict(embed_dims=1152, num_layers=27, num_heads=16, feedforward_channels=4304),
# patch_size=14.
backbone = dict(
    type='KAT',
    arch='base',
    img_size=224,
    patch_size=16,
    with_cls_token=False,
    out_type='avg_featmap',
    pos_interpolation='bicubic_antialias',
    attn_cfg=dict(type='SoftmaxAttention', init='trunc_normal'),
    ffn_cfg=dict(type='MLP', act='gelu_tanh'),
)
pixels = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
