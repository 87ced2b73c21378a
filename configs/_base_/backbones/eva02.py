# EVA-02 (Fang et al. 2023), B: gate and value as wide as 8/3 of the tokens, with a norm behind
# their product. L is arch=dict(embed_dims=1024, num_layers=24, num_heads=16,
# feedforward_channels=2730). T and S, with dict(embed_dims=192 or 384, num_layers=12, num_heads=3
# or 6, feedforward_channels=512 or 1024), have no such norm: ffn_cfg=dict(inner_norm=False).
# Files of fine-tuned models have fc_norm, behind the pooling, and no final norm; those of
# pretraining have one, which final_norm=True computes.
backbone = dict(
    type='KAT',
    arch=dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=2048),
    img_size=224,
    patch_size=14,
    final_norm=False,
    out_type='avg_featmap',
    attn_cfg=dict(
        type='SoftmaxAttention',
        qkv_bias='qv',
        rope=dict(base=10000.0, coordinates='indices', reference_size=(16, 16), rotation='pairs'),
        init='trunc_normal',
    ),
    ffn_cfg=dict(type='SwiGLU', inner_norm=True),
)
pixels = dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323])
