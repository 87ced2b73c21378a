"""Attention maps: where the tokens of each block and head look."""

import textwrap
from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch
from torch import Tensor

from kat_mm.backbones import KAT
from kat_mm.layers import SoftmaxAttention
from kat_mm.visualization.files import save_figure


@torch.no_grad()
def attention_weights(attn: SoftmaxAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights with which an attention module, softmax or KArAt, mixes the values.

    They are what the module makes of the unit vectors as values, whatever it computes inside.

    Args:
        attn: The module.
        x: Its input (B, N, C); the last H * W tokens are patches.
        grid: (H, W).

    Returns:
        (B, heads, N, N), queries first.
    """
    q, k, v = attn.project(x)
    units = torch.eye(q.shape[2], device=x.device, dtype=v.dtype)
    columns = []
    for part in units.split(v.shape[3], dim=1):
        missing = v.shape[3] - part.shape[1]
        values = torch.nn.functional.pad(part, (0, missing)).expand_as(v)
        columns.append(attn.attend(q, k, values, grid)[..., : part.shape[1]])
    return torch.cat(columns, dim=-1)


@torch.no_grad()
def collect_attention(
    backbone: KAT, images: Tensor, blocks: Sequence[int]
) -> tuple[dict[int, Tensor], tuple[int, int]]:
    """Run a backbone and note the attention weights of some blocks.

    Args:
        backbone: The model, which is put into evaluation mode.
        images: (B, 3, H, W), normalised.
        blocks: Numbers of the blocks; negative ones count from the end.

    Returns:
        Block number to weights (B, heads, N, N), and the grid of the patches.

    Raises:
        ValueError: A block does not exist, attends in windows, or has an attention of another kind.
    """
    depth = len(backbone.blocks)
    for index in blocks:
        if not -depth <= index < depth:
            raise ValueError(
                f'block {index} does not exist; the backbone has blocks 0 to {depth - 1}'
            )
        attn = backbone.blocks[index].attn
        if not isinstance(attn, SoftmaxAttention):
            raise ValueError(
                f'block {index} has an attention of type {type(attn).__name__}, whose weights are '
                'not known; choose a block with SoftmaxAttention or KArAt'
            )
        if attn.window_size:
            whole = [i for i, block in enumerate(backbone.blocks) if not block.attn.window_size]
            raise ValueError(
                f'block {index} attends in windows; choose one that attends to the whole image: '
                f'{whole}'
            )
    found = {}
    handles = []
    for number in (index % depth for index in blocks):

        def note(attn, inputs, number=number):
            x, grid, *_ = inputs
            found[number] = (attention_weights(attn, x, grid), grid)

        handles.append(backbone.blocks[number].attn.register_forward_pre_hook(note))
    try:
        backbone.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    (grid,) = {tuple(grid) for _, grid in found.values()}
    return {index: weights for index, (weights, _) in found.items()}, grid


def plot_attention(
    image: np.ndarray,
    maps: dict[str, dict[int, Tensor]],
    grid: tuple[int, int],
    query: int,
    out_file: str | PathLike,
) -> None:
    """Draw what one query attends to over the image: a row for each model and block, and in it each
    head.

    Red is a positive and blue a negative weight, which softmax has not, the denser the larger; the
    image shows through in grey. The heads of a row have the scale that is drawn at its end.

    Args:
        image: (H, W, 3) uint8, RGB, in its own shape; the grid is stretched over it.
        maps: Model name to block number to weights (heads, N, N).
        grid: (H, W) of the patches, the last tokens.
        query: Number of the token that attends.
        out_file: Where the picture goes; its ending gives the format.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    rows = [(name, block, w) for name, blocks in maps.items() for block, w in blocks.items()]
    heads = max(len(weights) for _, _, weights in rows)
    height, width = image.shape[:2]
    # Inches of a picture: wide enough for its title, and as high as the image is for its width.
    side = 2.0 * min(max(width / height, 0.7), 2.5)
    high = min(side * height / width, 2.0)
    total = side * (heads + 1) + 1.2
    letters = int(12 * total)
    titles = [textwrap.fill(f'{name}, block {block}', letters) for name, block, _ in rows]
    inches = [max(high, 0.7) + 0.4 + 0.2 * (title.count('\n') + 1) for title in titles]
    figure = Figure(figsize=(total, sum(inches)), layout='constrained')
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=inches)[:, 0]
    extent = (0, width, height, 0)
    grey = image.mean(axis=2)
    num_extra_tokens = rows[0][2].shape[-1] - grid[0] * grid[1]
    for part, title, (_, _, weights) in zip(parts, titles, rows, strict=True):
        part.suptitle(title, fontsize=10)
        row = part.subplots(1, heads + 1)
        for axis in row:
            axis.set_axis_off()
        row[0].imshow(image, extent=extent)
        row[0].set_title('image', fontsize='small')
        if query >= num_extra_tokens:
            y, x = divmod(query - num_extra_tokens, grid[1])
            place = (x + 0.5) * width / grid[1], (y + 0.5) * height / grid[0]
            row[0].plot(*place, 'o', color='white', markeredgecolor='black')
            row[0].set_title(f'image, query {y}, {x}', fontsize='small')
        patches = weights[:, query, num_extra_tokens:].float().cpu().numpy()
        patches = patches.reshape(len(weights), *grid)
        limit = float(np.abs(patches).max()) or 1.0
        signed = patches.min() < 0
        scale = ScalarMappable(
            Normalize(-limit if signed else 0, limit), 'RdBu_r' if signed else 'Reds'
        )
        for head, (axis, weight) in enumerate(zip(row[1:], patches, strict=False)):
            axis.imshow(grey, cmap='gray', vmin=0, vmax=255, extent=extent)
            colors = scale.to_rgba(weight)
            colors[..., 3] = 0.9 * (np.abs(weight) / limit) ** 0.6
            axis.imshow(colors, extent=extent, interpolation='nearest')
            axis.set_title(f'head {head}: up to {np.abs(weight).max():.2g}', fontsize='small')
        part.colorbar(scale, ax=row.tolist(), label='weight', aspect=12, pad=0.01)
    save_figure(figure, out_file, 110)
