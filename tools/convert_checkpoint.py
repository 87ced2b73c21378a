"""Convert a checkpoint of a KAT or a plain ViT between the layouts of projects.

Reads official KAT, FlashKAT, this project's runs, and ViTs of timm, transformers, OpenCLIP,
mmpretrain, AugReg (.npz) and the authors of DeiT, MAE, DINOv2, DINOv3 and EVA-02, by their keys.
Writes weights alone, without optimizer and logs.
"""

import argparse
import re

from kat_mm.checkpoints import from_official, to_kat, to_official, write_checkpoint
from kat_mm.checkpoints.convert import WRITERS, describe
from kat_mm.checkpoints.state_dict import keep_entries
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.weights import read_weights


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'source',
        metavar='IN',
        help='file (.pth, .safetensors, .npz), URL, or name of a published model',
    )
    parser.add_argument('target', metavar='OUT', help='file to write (.pth or .safetensors)')
    parser.add_argument(
        '--layout',
        choices=list(WRITERS),
        default='kat',
        help='kat: the official one (default); flashkat; kat_mm: a classifier of this project',
    )
    parser.add_argument(
        '--to-kat',
        action='store_true',
        help='write a ViT as the KAT that starts as it, with fits of its activation',
    )
    parser.add_argument(
        '--act',
        choices=['gelu', 'gelu_tanh', 'quick_gelu', 'silu'],
        help='with --to-kat: the activation of the ViT, which no file tells (default: gelu, or '
        'silu of a gated feed-forward)',
    )
    parser.add_argument(
        '--groups', type=int, default=8, help='with --to-kat: groups of channels (default: 8)'
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
    content = read_weights(args.source, args.allow_pickle)
    official, left_out = to_official(content, args.source, args.prefix)
    ignored = [key for key in official for pattern in args.ignore if re.match(pattern, key)]
    official = keep_entries(official, lambda key: key not in ignored)
    left_out += ignored
    if args.to_kat:
        try:
            official = to_kat(official, args.act, args.groups)
        except UserError as error:
            raise UserError(f'checkpoint {args.source} becomes no KAT: {error}') from error
    written = from_official(official, args.layout)
    write_checkpoint(written, args.target)
    print(f'{args.source} is {describe(official)}')
    if left_out:
        print(f'left out: {", ".join(left_out)}')
    print(f'wrote {args.target}: {len(written)} tensors')


if __name__ == '__main__':
    run_tool(main)
