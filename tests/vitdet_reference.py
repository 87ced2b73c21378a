"""ViTDet's backbone and neck, plain and slow: the truth that tests compare with.

Explicit bias matrices, windows cut by loops, one image at a time. The weights are those of a
state dict of KAT with ``ffn_cfg=dict(type='MLP')``, or of SimpleFeaturePyramid.
"""

import torch
import torch.nn.functional as F


def layer_norm(x, weight, bias, eps=1e-6):
    """Over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def resize_table(table, length):
    """(L, d) to (length, d): linear between the centres of the rows."""
    where = (torch.arange(length, dtype=table.dtype) + 0.5) * len(table) / length - 0.5
    where = where.clamp(0, len(table) - 1)
    low = where.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    part = (where - low)[:, None]
    return table[low] * (1 - part) + table[high] * part


def attention(x, state, heads, tables=None):
    """(H, W, C) to the same shape; tables (2 H - 1, d) and (2 W - 1, d), or none."""
    height, width, channels = x.shape
    qkv = x.flatten(0, 1) @ state['qkv.weight'].T + state['qkv.bias']
    outputs = []
    d = channels // heads
    for h in range(heads):
        q, k, v = (part[:, h * d : (h + 1) * d] for part in qkv.split(channels, dim=1))
        logits = q @ k.T / d**0.5
        if tables is not None:
            bias = []
            for i in range(height * width):
                for j in range(height * width):
                    (qh, qw), (kh, kw) = divmod(i, width), divmod(j, width)
                    row = tables[0][qh - kh + height - 1] + tables[1][qw - kw + width - 1]
                    bias.append(q[i] @ row)
            logits = logits + torch.stack(bias).view_as(logits)
        outputs.append(logits.softmax(dim=1) @ v)
    x = torch.cat(outputs, dim=1) @ state['proj.weight'].T + state['proj.bias']
    return x.view(height, width, channels)


def windowed(x, window, attend):
    """Apply attend to each window of x (H, W, C), padded with zeros at the right and bottom."""
    height, width, _ = x.shape
    padded = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows = []
    for top in range(0, padded.shape[0], window):
        row = []
        for left in range(0, padded.shape[1], window):
            row.append(attend(padded[top : top + window, left : left + window]))
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows, dim=0)[:height, :width]


def part(state, prefix):
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def backbone(images, state, *, heads, patch, grid, window, global_blocks, rel_pos):
    """(B, 3, H, W), divisible by the patch, to (B, C, H / patch, W / patch), without final norm.

    grid: (H, W) in tokens of the position embedding.
    """
    maps = []
    for image in images:
        x = F.conv2d(
            image[None], state['patch_embed.proj.weight'], state['patch_embed.proj.bias'], patch
        )[0]
        size = x.shape[1:]
        position = state['pos_embed'][0].T.reshape(1, -1, *grid)
        if size != grid:
            position = F.interpolate(position, size=size, mode='bicubic')
        x = (x + position[0]).permute(1, 2, 0)
        for index in range(1 + max(int(key.split('.')[1]) for key in state if 'blocks.' in key)):
            block = part(state, f'blocks.{index}.')
            attn = part(block, 'attn.')
            side = x.shape[:2] if index in global_blocks else (window, window)
            tables = None
            if rel_pos:
                tables = [
                    resize_table(attn[f'rel_pos_{axis}'], 2 * n - 1)
                    for axis, n in zip('hw', side, strict=True)
                ]
            y = layer_norm(x, block['norm1.weight'], block['norm1.bias'])
            if index in global_blocks:
                y = attention(y, attn, heads, tables)
            else:
                y = windowed(y, window, lambda z, a=attn, t=tables: attention(z, a, heads, t))
            x = x + y
            y = layer_norm(x, block['norm2.weight'], block['norm2.bias'])
            y = y @ block['mlp.fc1.weight'].T + block['mlp.fc1.bias']
            y = y * (1 + torch.erf(y / 2**0.5)) / 2
            x = x + y @ block['mlp.fc2.weight'].T + block['mlp.fc2.bias']
        maps.append(x.permute(2, 0, 1))
    return torch.stack(maps)


def deconvolution(x, weight, bias):
    """Kernel 2, stride 2: each pixel becomes its own 2 x 2 pixels."""
    batch, _, height, width = x.shape
    y = torch.einsum('bchw,cdij->bdhiwj', x, weight)
    return y.reshape(batch, -1, 2 * height, 2 * width) + bias[:, None, None]


def channel_norm(x, state, prefix):
    y = layer_norm(x.movedim(1, -1), state[f'{prefix}.weight'], state[f'{prefix}.bias'])
    return y.movedim(-1, 1)


def pyramid(x, state):
    """(B, C, H, W) to five levels, of 4, 2, 1, 1/2 and 1/4 of the size."""
    levels = []
    for index in range(4):
        level = part(state, f'levels.{index}.')
        if index == 0:
            y = deconvolution(x, level['0.weight'], level['0.bias'])
            y = channel_norm(y, level, '1')
            y = y * (1 + torch.erf(y / 2**0.5)) / 2
            y, first = deconvolution(y, level['3.weight'], level['3.bias']), 4
        elif index == 1:
            y, first = deconvolution(x, level['0.weight'], level['0.bias']), 1
        elif index == 2:
            y, first = x, 0
        else:
            height, width = x.shape[2] // 2, x.shape[3] // 2
            y = x[..., : 2 * height, : 2 * width]
            y = y.unflatten(3, (width, 2)).unflatten(2, (height, 2)).amax(dim=(3, 5))
            first = 1
        y = torch.einsum('bchw,dc->bdhw', y, level[f'{first}.weight'][..., 0, 0])
        y = channel_norm(y, level, f'{first + 1}')
        y = F.conv2d(y, level[f'{first + 2}.weight'], padding=1)
        levels.append(channel_norm(y, level, f'{first + 3}'))
    return [*levels, levels[-1][..., ::2, ::2]]
