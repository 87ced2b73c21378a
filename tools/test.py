"""Test a model with a checkpoint: classification, detection or segmentation, as the config says."""

import argparse

from mmengine.config import Config

from kat_mm.engine import preflight
from kat_mm.engine.launch import add_common_arguments, build_runner, load_config, run_tool
from kat_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument('--out', help='folder for the predictions, as label images')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_common_arguments(parser)
    return parser.parse_args()


def draw_predictions(cfg: Config, show_dir: str) -> None:
    """Have the visualization hook write a picture of every test image."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or 'visualizer' not in cfg:
        raise UserError(
            '--show-dir needs default_hooks.visualization and a visualizer in the config'
        )
    hook.draw = True
    hook.interval = 1
    cfg.visualizer.save_dir = show_dir


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    if args.show_dir:
        draw_predictions(cfg, args.show_dir)
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            raise UserError('--tta needs tta_model and tta_pipeline in the config')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.tta_model.module = cfg.model
        cfg.model = cfg.tta_model
    if args.out:
        cfg.test_evaluator.output_dir = args.out
        cfg.test_evaluator.keep_results = True

    preflight.check_config(cfg, ('test',))
    preflight.check_work_dir(cfg.work_dir)
    runner = build_runner(cfg)
    preflight.check_checkpoint(args.checkpoint, runner.model, strict=True)
    runner.test()


if __name__ == '__main__':
    run_tool(main)
