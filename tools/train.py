"""Train a model: classification, detection or segmentation, as the config says."""

import argparse
import os

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from kat_mm import checks
from kat_mm.engine.launch import (
    add_common_arguments,
    build_runner,
    is_main_process,
    load_config,
    run_tool,
)
from kat_mm.engine.work_dir import claim_work_dir, latest_checkpoint
from kat_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one of kat_mm')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from the checkpoint named here, or else from the latest in the work folder, '
        'or begin where there is none',
    )
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision')
    parser.add_argument(
        '--compile',
        action='store_true',
        help='torch.compile the backbone, the neck and the heads (compile=True in the config)',
    )
    parser.add_argument(
        '--cuda-graphs',
        action='store_true',
        help='start the kernels of backbone, neck and heads as CUDA graphs, where all images have '
        'one size (cuda_graphs=True in the config)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate with the total batch size, from the config's base",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def resume_latest(cfg: Config) -> None:
    """Go on from the latest checkpoint of the work folder, or begin, as a requeued job needs."""
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    latest = latest_checkpoint(cfg.work_dir, hook.get('out_dir'))
    cfg.resume = latest is not None
    if cfg.resume:
        cfg.load_from = latest
    else:
        print_log(f'No checkpoint in {cfg.work_dir}: training begins at iteration 1', 'current')


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
    if args.compile:
        cfg.compile = cfg.get('compile') or True
    if args.cuda_graphs:
        if not torch.cuda.is_available():
            raise UserError('--cuda-graphs needs a GPU, and there is none; leave it out on a CPU')
        cfg.cuda_graphs = cfg.get('cuda_graphs') or True
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, args.resume
    goes_on = args.resume == 'auto' or (cfg.get('resume', False) and not cfg.get('load_from'))
    if goes_on:
        resume_latest(cfg)
    elif cfg.get('resume'):
        goes_on = os.path.realpath(os.path.dirname(cfg.load_from)) == os.path.realpath(cfg.work_dir)

    resume = cfg.get('resume', False)
    start = cfg.get('load_from')
    checks.prepare(cfg, ('train', 'val'), start, resume, resume, work_dir=cfg.work_dir)
    if is_main_process(cfg.launcher):
        claim_work_dir(cfg.work_dir, goes_on)
    build_runner(cfg, trains=True).train()


if __name__ == '__main__':
    run_tool(main)
