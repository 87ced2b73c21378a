"""Test a model with a checkpoint: classification, detection or segmentation, as the config says."""

import argparse
import os

from mmengine.config import Config

from kat_mm import checks
from kat_mm.engine.launch import add_common_arguments, build_runner, load_config, run_tool
from kat_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument('--out', help='folder for the predictions: label images, or COCO json')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_common_arguments(parser)
    return parser.parse_args()


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Have the visualization hook show or write a picture of every test image."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or 'visualizer' not in cfg:
        raise UserError(
            '--show and --show-dir need default_hooks.visualization and a visualizer in the config'
        )
    if args.launcher != 'none':
        raise UserError('--show and --show-dir draw the images of one process; use --launcher none')
    hook.update(draw=True, interval=1, show=args.show, wait_time=args.wait_time)
    if args.show_dir and hook.type.endswith('DetVisualizationHook'):
        hook.test_out_dir = os.path.abspath(args.show_dir)
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def write_predictions(evaluator: Config, folder: str) -> None:
    """Have the metric write what it compares with the truth."""
    kind = evaluator.get('type') if isinstance(evaluator, dict) else None
    if kind == 'IoUMetric':
        evaluator.output_dir = folder
    elif kind == 'CocoMetric':
        evaluator.outfile_prefix = os.path.join(folder, 'predictions')
    else:
        raise UserError('--out needs test_evaluator.type IoUMetric or CocoMetric in the config')


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    checks.check_out_dir(args.out, '--out')
    checks.check_out_dir(args.show_dir, '--show-dir')
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.out:
        write_predictions(cfg.test_evaluator, args.out)

    checks.check_config(cfg, ('test',))
    model = checks.build_model(cfg)
    checks.check_channels(model)
    checks.check_checkpoint(args.checkpoint, model, strict=True)
    checks.check_work_dir(cfg.work_dir, model)
    if args.tta:
        if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
            raise UserError('--tta needs tta_model and tta_pipeline in the config')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)
    build_runner(cfg).test()


if __name__ == '__main__':
    run_tool(main)
