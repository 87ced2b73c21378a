# What EoMT's recipe changes for DINOv3: twice the rate, and the last blocks, those of the queries,
# have it in full; longer warm-ups, and the masks of the first of these blocks go from the start to
# the end of the backbone's. For 12 blocks, and three of the queries.
eomt_dinov3 = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(
        custom_keys={
            f'backbone.blocks.{block}.': dict(lr_mult=0.8 ** (block - 11), decay_mult=1.0)
            for block in (9, 10)
        }
    ),
)
eomt_dinov3_warm_ups = dict(head_iters=2000, backbone_iters=3000)
