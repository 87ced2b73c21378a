"""Export a trained model to ONNX, OpenVINO or torch.export, and compare it with PyTorch."""

import argparse
from pathlib import Path

from kat_mm import checks
from kat_mm.engine.launch import add_common_arguments, load_config, run_tool
from kat_mm.errors import UserError
from kat_mm.export.convert import SUFFIXES, check_format
from kat_mm.export.export import export_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=list(SUFFIXES), default='onnx', help='default: onnx')
    parser.add_argument(
        '--out', help='file to write; default: work_dirs/CONFIG/CONFIG with the suffix'
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
    check_format(args.format)
    for name, values in (('--size', args.size), ('--batch', [args.batch or 1])):
        if any(value < 1 for value in values or ()):
            raise UserError(f'{name} {values} must be whole numbers from 1')
    if args.size and args.dynamic_size:
        raise UserError('--size and --dynamic-size exclude each other')
    cfg = load_config(args)
    name = Path(args.config).stem
    out = Path(args.out or Path(cfg.work_dir, name + SUFFIXES[args.format]))
    checks.check_out_dir(str(out.parent), '--out')
    checks.check_config(cfg, ())
    model = checks.build_model(cfg)
    checks.check_checkpoint(args.checkpoint, model, strict=True)
    described = export_model(
        cfg,
        model,
        out,
        format=args.format,
        features=args.features,
        preprocessing=args.preprocessing,
        size=args.size,
        dynamic_size=args.dynamic_size,
        batch=args.batch,
        half=args.half,
        images=args.images,
        tolerance=args.tolerance,
    )
    print(f'done: {out}, {out.stat().st_size / 1e6:.1f} MB, takes {described.inputs}')


if __name__ == '__main__':
    run_tool(main)
