"""Export a model to ONNX, OpenVINO, torch.export or AOTInductor, and compare it with PyTorch."""

import argparse
from pathlib import Path

from kat_mm import checks
from kat_mm.engine.launch import add_common_arguments, load_config, run_tool
from kat_mm.errors import UserError
from kat_mm.export.convert import SUFFIXES, check_format
from kat_mm.export.description import parts_of
from kat_mm.export.export import export_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--format',
        nargs='+',
        choices=list(SUFFIXES),
        default=['onnx'],
        help='one or several; default: onnx',
    )
    parser.add_argument(
        '--out', help='file to write, with the suffix or without; default: work_dirs/CONFIG/CONFIG'
    )
    parser.add_argument('--features', action='store_true', help='backbone and neck alone')
    parser.add_argument(
        '--preprocessing',
        action='store_true',
        help='put the normalisation into the file: it takes RGB pixels, uint8',
    )
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help="default: the config's"
    )
    parser.add_argument(
        '--dynamic-size', action='store_true', help='any sides that are multiples of the patch'
    )
    parser.add_argument('--batch', type=int, help='number of images; default: any')
    parser.add_argument('--half', action='store_true', help='weights as float16')
    parser.add_argument('--images', nargs='*', default=[], help='images to compare on')
    parser.add_argument('--tolerance', type=float, help='largest accepted relative difference')
    parser.add_argument('--work-dir', help=argparse.SUPPRESS)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for format in args.format:
        check_format(format)
    checks.check_whole('--size', args.size, 1, 8192)
    checks.check_whole('--batch', args.batch, 1, 4096)
    if args.size and args.dynamic_size:
        raise UserError('--size and --dynamic-size exclude each other')
    cfg = load_config(args)
    out = Path(args.out or Path(cfg.work_dir, Path(args.config).stem))
    suffixes = [SUFFIXES[format] for format in args.format]
    if args.out and out.suffix and not out.name.endswith(tuple(suffixes)):
        raise UserError(
            f'--out {out}: a file of --format {" ".join(args.format)} ends in '
            f'{" or ".join(suffixes)}'
        )
    checks.check_out_dir(str(out.parent), '--out')
    model = checks.prepare(cfg, (), args.checkpoint)
    files = export_model(
        cfg,
        model,
        out,
        formats=args.format,
        features=args.features,
        preprocessing=args.preprocessing,
        size=args.size,
        dynamic_size=args.dynamic_size,
        batch=args.batch,
        half=args.half,
        images=args.images,
        tolerance=args.tolerance,
    )
    for file, described in files.items():
        takes = ', '.join(described.inputs)
        size = sum(part.stat().st_size for part in parts_of(file))
        print(f'done: {file}, {size / 1e6:.1f} MB, takes {takes}')


if __name__ == '__main__':
    run_tool(main)
