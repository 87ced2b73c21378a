"""Test a model with a checkpoint: classification, detection or segmentation, as the config says."""

import argparse
import os
import sys

from mmengine.config import Config

from kat_mm import checks
from kat_mm.engine.launch import add_common_arguments, build_runner, load_config, run_tool
from kat_mm.engine.testing import (
    PICKLES,
    augment,
    check_names,
    write_predictions,
    write_submission,
)
from kat_mm.errors import UserError
from kat_mm.export.evaluation import SUFFIXES, use_exported


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one')
    parser.add_argument('checkpoint', help='checkpoint, or a file of tools/export.py')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument(
        '--out',
        help='FILE.pkl for the predictions of any task, or a folder for label images, COCO json '
        'or predictions.pkl',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write to --out what a test server takes, of a split without public annotations',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each')
    parser.add_argument(
        '--show-dir', help='folder for pictures of the predictions, beside the truth'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average over the config's tta_pipeline, or over each image and its mirror image",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Have a hook show or write a picture of every test image."""
    if args.launcher != 'none':
        raise UserError('--show and --show-dir draw the images of one process; use --launcher none')
    if args.show and sys.platform == 'linux':
        if not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
            raise UserError('--show needs a display, and there is none; use --show-dir FOLDER')
    hook = dict(
        type='PicturesHook', out_dir=args.show_dir, show=args.show, wait_time=args.wait_time
    )
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), hook]


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    exported = args.checkpoint.endswith(SUFFIXES)
    cfg.load_from = None if exported else args.checkpoint
    if exported and args.tta:
        raise UserError('--tta does not go with an exported file; give the checkpoint')
    is_file = args.out is not None and args.out.endswith(PICKLES)
    if args.format_only and (is_file or not args.out):
        raise UserError('--format-only needs --out FOLDER')
    if is_file and os.path.isdir(args.out):
        raise UserError(f'--out {args.out}: {args.out} is a folder; name a file')
    checks.check_out_dir(os.path.dirname(args.out) if is_file else args.out, '--out')
    checks.check_out_dir(args.show_dir, '--show-dir')
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.format_only:
        write_submission(cfg, args.out)
    elif args.out:
        write_predictions(cfg, args.out)

    # Of a submission's split there is no truth to check.
    splits = () if args.format_only else ('test',)
    checks.prepare(cfg, splits, cfg.load_from, work_dir=cfg.work_dir)
    if args.tta:
        augment(cfg)
    runner = build_runner(cfg)
    if exported:
        use_exported(runner.model, args.checkpoint, cfg)
    if args.out:
        check_names(cfg, runner.test_dataloader.dataset)
    runner.test()


if __name__ == '__main__':
    run_tool(main)
