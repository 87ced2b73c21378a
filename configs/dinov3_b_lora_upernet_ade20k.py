# DINOv3 B with UperNet, of which the heads and low-rank adapters of queries, keys and values are
# trained (LoRA; mmpretrain's). Checkpoints hold these alone: testing and resuming read the start
# weights too.
_base_ = './dinov3_b_upernet_ade20k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.LoRAModel',
        module=dict(_base_.model.backbone, drop_path_rate=0.0),
        rank=16,
        alpha=16,
        targets=[dict(type='attn.qkv')],
    )
)
# What starts at nothing has the full rate in every block.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
