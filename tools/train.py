"""Train a model: classification, detection or segmentation, as the config says."""

import argparse

import torch

from kat_mm import checks
from kat_mm.engine.launch import add_common_arguments, build_runner, load_config, run_tool
from kat_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from the checkpoint named here, or else from the latest in the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate with the total batch size, from the config's base",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU, and there is none; train without it on a CPU')
        if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp does not go with optim_wrapper.type={cfg.optim_wrapper.type}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = checks.latest_checkpoint(cfg.work_dir)

    checks.check_config(cfg, ('train', 'val'))
    model = checks.build_model(cfg)
    checks.check_channels(model)
    if not cfg.get('resume'):  # which does not read them
        checks.check_pretrained(model)
    if cfg.get('load_from'):
        resume = cfg.get('resume', False)
        checks.check_checkpoint(cfg.load_from, model, strict=resume, resume=resume)
    checks.check_work_dir(cfg.work_dir, model)
    build_runner(cfg).train()


if __name__ == '__main__':
    run_tool(main)
