"""EoMT, plain and slow, from the paper: one image, one query and one head at a time."""

import math

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict


def head_cfg(num_classes, **kwargs):
    """Config of the parts of a head that are Mask2Former's, and what is given."""
    return ConfigDict(
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=2.0,
            reduction='mean',
            class_weight=[1.0] * num_classes + [0.1],
        ),
        loss_mask=dict(
            type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=5.0
        ),
        loss_dice=dict(
            type='mmdet.DiceLoss',
            use_sigmoid=True,
            activate=True,
            reduction='mean',
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
        **kwargs,
    )


TRAIN_CFG = ConfigDict(
    num_points=128,
    oversample_ratio=3.0,
    importance_sample_ratio=0.75,
    assigner=dict(
        type='mmdet.HungarianAssigner',
        match_costs=[
            dict(type='mmdet.ClassificationCost', weight=2.0),
            dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
            dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
        ],
    ),
    sampler=dict(type='mmdet.MaskPseudoSampler'),
)


def annealed_rate(iteration, begin, end, power=0.9):
    if iteration < begin:
        return 1.0
    if iteration >= end:
        return 0.0
    return (1 - (iteration - begin) / (end - begin)) ** power


def predict(backbone, head, tokens, grid):
    """Class logits and mask logits of one image's tokens (N, C)."""
    height, width = grid
    tokens = F.layer_norm(tokens, tokens.shape[-1:], backbone.norm.weight, backbone.norm.bias, 1e-6)
    queries, patches = tokens[: head.num_queries], tokens[-height * width :]
    maps = patches.T.reshape(1, -1, height, width)
    for deconv, _, conv, norm in head.upscale:
        maps = F.gelu(F.conv_transpose2d(maps, deconv.weight, deconv.bias, stride=2))
        maps = F.conv2d(maps, conv.weight, padding=1, groups=maps.shape[1])
        mean = maps.mean(1, keepdim=True)
        variance = (maps - mean).square().mean(1, keepdim=True)
        maps = (maps - mean) / (variance + norm.eps).sqrt()
        maps = maps * norm.weight[:, None, None] + norm.bias[:, None, None]
    first, second, third = (layer for layer in head.mask_embed if hasattr(layer, 'weight'))
    classes, masks = [], []
    for query in queries:
        classes.append(head.cls_embed.weight @ query + head.cls_embed.bias)
        y = F.gelu(first.weight @ query + first.bias)
        y = F.gelu(second.weight @ y + second.bias)
        y = third.weight @ y + third.bias
        masks.append((y[:, None, None] * maps[0]).sum(0))
    return torch.stack(classes), torch.stack(masks)


def masked_block(block, x, allowed):
    """One block on (N, C), where token i sees token j if allowed[i, j]."""
    channels, heads = x.shape[-1], block.attn.num_heads
    size = channels // heads
    y = F.layer_norm(x, (channels,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = (y @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(channels, dim=-1)
    outputs = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        weights = scores.masked_fill(~allowed, float('-inf')).softmax(-1)
        outputs.append(weights @ v[:, part])
    x = x + torch.cat(outputs, -1) @ block.attn.proj.weight.T + block.attn.proj.bias
    y = F.layer_norm(x, (channels,), block.norm2.weight, block.norm2.bias, 1e-6)
    return x + block.mlp(y[None])[0]


def forward(backbone, head, images, masked):
    """All predictions of each image, and the allowed pairs of each block.

    Args:
        masked: (blocks, B, queries), which queries are masked.
    """
    tokens, grid = backbone.embed(images)
    patches = grid[0] * grid[1]
    last = backbone.blocks[-head.num_blocks :]
    for block in backbone.blocks[: -head.num_blocks]:
        tokens = torch.stack(
            [masked_block(block, x, x.new_ones(len(x), len(x)).bool()) for x in tokens]
        )
    predictions, pairs = [], []
    for image, x in enumerate(tokens):
        x = torch.cat([head.query_feat.weight, x])
        of_image, of_blocks = [], []
        for index, block in enumerate(last):
            classes, masks = predict(backbone, head, x, grid)
            of_image.append((classes, masks))
            small = F.interpolate(masks[None], grid, mode='bilinear', align_corners=False)[0]
            allowed = torch.ones(len(x), len(x), dtype=torch.bool)
            for query in range(head.num_queries):
                if masked[index, image, query]:
                    allowed[query, -patches:] = small[query].flatten() > 0
            of_blocks.append(allowed)
            x = masked_block(block, x, allowed)
        of_image.append(predict(backbone, head, x, grid))
        predictions.append(of_image)
        pairs.append(of_blocks)
    return predictions, pairs
