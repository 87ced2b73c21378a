"""Convert a checkpoint of a KAT or a plain ViT between the layouts of projects.

Reads official KAT, FlashKAT, this project's runs, and ViTs of timm, DeiT, MAE, DINOv2, AugReg
(.npz) and mmpretrain, by their keys. Writes weights alone, without optimizer and logs.
"""

import argparse
import re

from kat_mm.checkpoints import from_official, read_checkpoint, to_official, write_checkpoint
from kat_mm.checkpoints.convert import WRITERS, describe
from kat_mm.checkpoints.state_dict import keep_entries
from kat_mm.engine.launch import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('source', metavar='IN', help='checkpoint file (.pth, .safetensors, .npz)')
    parser.add_argument('target', metavar='OUT', help='file to write (.pth or .safetensors)')
    parser.add_argument(
        '--layout',
        choices=list(WRITERS),
        default='kat',
        help='kat: the official one (default); flashkat; kat_mm: a classifier of this project',
    )
    parser.add_argument('--prefix', default='backbone.', help='of the backbone in a whole model')
    parser.add_argument(
        '--ignore',
        metavar='PATTERN',
        action='append',
        default=[],
        help='regular expression of names that are left out, from their beginning; may be repeated',
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='unpickle whatever IN holds, which runs the code in it: for files that you trust',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    content = read_checkpoint(args.source, args.allow_pickle)
    official, left_out = to_official(content, args.source, args.prefix)
    ignored = [key for key in official for pattern in args.ignore if re.match(pattern, key)]
    official = keep_entries(official, lambda key: key not in ignored)
    left_out += ignored
    write_checkpoint(from_official(official, args.layout), args.target)
    print(f'{args.source} is {describe(official)}')
    if left_out:
        print(f'left out: {", ".join(left_out)}')
    print(f'wrote {args.target}: {len(official)} tensors')


if __name__ == '__main__':
    run_tool(main)
