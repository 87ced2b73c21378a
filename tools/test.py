"""Test a model with a checkpoint: classification, detection or segmentation, as the config says."""

import argparse
import os
import sys

from mmengine.config import Config

from kat_mm import checks
from kat_mm.engine.launch import add_common_arguments, build_runner, load_config, run_tool
from kat_mm.errors import UserError
from kat_mm.export.evaluation import SUFFIXES, use_exported


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint, or a file of tools/export.py')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument(
        '--out',
        help='FILE.pkl for the predictions of any task, or a folder for label images, COCO json '
        'or predictions.pkl',
    )
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
    if args.show and sys.platform == 'linux':
        if not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
            raise UserError('--show needs a display, and there is none; use --show-dir FOLDER')
    kind = hook.type.rpartition('.')[2]
    if kind == 'VisualizationHook':
        hook.update(enable=True, interval=1, show=args.show, wait_time=args.wait_time)
        hook.out_dir = args.show_dir
        return
    hook.update(draw=True, interval=1, show=args.show, wait_time=args.wait_time)
    if args.show_dir and kind == 'DetVisualizationHook':
        hook.test_out_dir = os.path.abspath(args.show_dir)
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def write_predictions(cfg: Config, out: str) -> None:
    """Have the metrics write what they compare with the truth, or all predictions to a file."""
    metrics = cfg.test_evaluator
    kind = metrics.get('type') if isinstance(metrics, dict) else None
    if out.endswith(('.pkl', '.pickle')):
        file = out
    elif kind == 'IoUMetric':
        metrics.output_dir = out
        return
    elif kind == 'CocoMetric':
        metrics.outfile_prefix = os.path.join(out, 'predictions')
        return
    else:
        file = os.path.join(out, 'predictions.pkl')
    metrics = [metrics] if isinstance(metrics, dict) else list(metrics)
    cfg.test_evaluator = [*metrics, dict(type='DumpResults', out_file_path=file)]


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    exported = args.checkpoint.endswith(SUFFIXES)
    cfg.load_from = None if exported else args.checkpoint
    if exported and args.tta:
        raise UserError('--tta does not go with an exported file; give the checkpoint')
    is_file = args.out and args.out.endswith(('.pkl', '.pickle'))
    checks.check_out_dir(os.path.dirname(args.out) if is_file else args.out, '--out')
    checks.check_out_dir(args.show_dir, '--show-dir')
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.out:
        write_predictions(cfg, args.out)

    checks.check_config(cfg, ('test',))
    model = checks.build_model(cfg)
    checks.check_channels(model)
    if not exported:
        checks.check_checkpoint(args.checkpoint, model, strict=True)
    checks.check_work_dir(cfg.work_dir, model)
    if args.tta:
        if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
            raise UserError('--tta needs tta_model and tta_pipeline in the config')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)
    runner = build_runner(cfg)
    if exported:
        use_exported(runner.model, args.checkpoint, cfg)
    runner.test()


if __name__ == '__main__':
    run_tool(main)
