"""Draw the attention maps of one or more models on an image, softmax or KArAt."""

import argparse
from pathlib import Path

import mmcv
import numpy as np
import torch

from kat_mm import checks
from kat_mm.backbones import load_pretrained
from kat_mm.checkpoints.state_dict import check_finite
from kat_mm.engine.configs import read_config
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.visualization.attention import collect_attention, plot_attention


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: python tools/plot_attention.py cat.jpg '
        '--model configs/vit_t_softmax_cifar10.py softmax.pth '
        '--model configs/vit_t_karat_cifar10.py karat.pth --blocks 0 6 11',
    )
    parser.add_argument('image', help='an image file')
    parser.add_argument(
        '--model',
        dest='models',
        nargs=2,
        action='append',
        required=True,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='may be given several times; all need the same grid of patches',
    )
    parser.add_argument('--blocks', type=int, nargs='+', default=[0, -1], help='default: 0 -1')
    parser.add_argument(
        '--query',
        type=int,
        nargs=2,
        metavar=('ROW', 'COLUMN'),
        help='patch that attends; default: the class token, or without one the middle patch',
    )
    parser.add_argument('--out', default='attention.png', help='default: %(default)s')
    return parser.parse_args()


def read_image(path: str) -> np.ndarray:
    try:
        return mmcv.imread(path, channel_order='rgb', backend='pillow')
    except OSError as error:
        raise UserError(f'{path} is no image that can be read: {error}') from error


def weights_on(
    image: np.ndarray, config: str, checkpoint: str, blocks: list[int]
) -> tuple[dict[int, torch.Tensor], tuple[int, int], int]:
    """Attention weights of a model, its grid, and the number of its class tokens."""
    cfg = read_config(config)
    backbone = checks.prepare(cfg, ()).backbone
    load_pretrained(backbone, checkpoint)
    check_finite(backbone.state_dict(), checkpoint)
    height, width = (side * backbone.patch_embed.patch_size for side in backbone.grid_size)
    pixels = torch.from_numpy(mmcv.imresize(image, (width, height), backend='pillow')).float()
    mean, std = (torch.tensor(cfg.model.data_preprocessor[key]) for key in ('mean', 'std'))
    try:
        maps, grid = collect_attention(
            backbone, ((pixels - mean) / std).permute(2, 0, 1)[None], blocks
        )
    except ValueError as error:
        raise UserError(f'{config}: {error}') from error
    return {block: weights[0] for block, weights in maps.items()}, grid, backbone.num_extra_tokens


def main() -> None:
    args = parse_args()
    image = read_image(args.image)
    found = {}
    for config, checkpoint in args.models:
        name = Path(config).stem
        if name in found:
            name = f'{name}, {Path(checkpoint).stem}'
        found[name] = weights_on(image, config, checkpoint, args.blocks)
    shapes = {name: (grid, extra) for name, (_, grid, extra) in found.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f'the models differ in their patches and class tokens: {shapes}')
    grid, extra = next(iter(shapes.values()))
    query = 0
    if args.query or not extra:
        row, column = args.query or (grid[0] // 2, grid[1] // 2)
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise UserError(
                f'--query {row} {column} lies outside of the grid of {grid[0]} x {grid[1]} patches'
            )
        query = extra + row * grid[1] + column
    maps = {name: weights for name, (weights, _, _) in found.items()}
    plot_attention(image, maps, grid, query, args.out)
    print(f'Attention maps: {args.out}')


if __name__ == '__main__':
    run_tool(main)
