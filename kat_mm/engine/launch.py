"""What the command-line tools share: configs, distributed start, and how errors are shown."""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from logging.handlers import MemoryHandler

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger, print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import kat_mm  # noqa: F401  registers the modules that the configs name
from kat_mm.checkpoints import trust_files
from kat_mm.engine.configs import read_config
from kat_mm.engine.console import quiet_dependencies, quiet_terminal
from kat_mm.engine.ending import communicates, end_communication, leave
from kat_mm.engine.loading import unwrap
from kat_mm.engine.runner import CheckpointRunner
from kat_mm.engine.signals import Terminated, end_with_parent
from kat_mm.errors import UserError, config_errors

# What is logged before the run makes its log file, which gets it then.
_EARLY_LOG = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)


def run_tool(main: Callable[[], None]) -> None:
    """Run a command line; a user's mistake ends in one message and exit status 1.

    No file that it reads runs code, but for the config, unless :func:`load_config` allows it.
    """
    trust_files(False)
    quiet_dependencies()
    status = 0
    try:
        main()
    except Terminated:
        status = Terminated.status
    except KeyboardInterrupt:
        if os.environ.get('RANK', '0') == '0':
            print('interrupted', file=sys.stderr)
        leave(128 + signal.SIGINT)
    except Exception as error:
        message = _user_message(error)
        if message is None:
            traceback.print_exc()
            message = f'{type(error).__name__}: {error}'
        if communicates():
            print(f'error: {message}', file=sys.stderr)
            leave(1)
        sys.exit(f'error: {message}')
    end_communication()
    if status:
        sys.exit(status)


def _user_message(error: Exception) -> str | None:
    if not isinstance(error, UserError):
        return None
    # From a data loader's worker, the message comes behind the worker's traceback.
    return str(error).rpartition(f'{UserError.__name__}: ')[2].strip()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that OpenMMLab's training and testing tools have in common."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config with key=value pairs, for example '
        'model.backbone.with_cp=True; lists as key="[a,b]" or key=a,b',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started (default: none)',
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='run the code that checkpoints and data hold: for files that you trust, all of them',
    )
    # torch.distributed.launch passes it; torchrun sets the variable.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of a command line and merge its options; the log begins here."""
    logger = MMLogger.get_current_instance()
    quiet_terminal(logger)
    logger.addHandler(_EARLY_LOG)
    trust_files(args.allow_pickle)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError(
            '--launcher pytorch is for processes that torchrun starts, but RANK is not set; '
            'leave it out, or start several processes with tools/dist_train.sh or dist_test.sh'
        )
    if args.launcher in ('slurm', 'mpi') and not torch.cuda.is_available():
        raise UserError(
            f'--launcher {args.launcher} needs GPUs, and there are none; on CPUs start with '
            'tools/dist_train.sh (torchrun) and --launcher pytorch'
        )
    cfg.launcher = args.launcher
    name = os.path.splitext(os.path.basename(args.config))[0]
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', name)
    return cfg


def is_main_process(launcher: str) -> bool:
    """Whether this is the first process of a run, before their communication starts."""
    ranks = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
    return launcher == 'none' or os.environ.get(ranks[launcher], '0') == '0'


def build_runner(cfg: Config, trains: bool = False) -> Runner:
    """Start the processes' communication where there are several, and build the runner.

    Args:
        cfg: The config, which is changed where the machine has no GPU.
        trains: Whether it is to train, so that what becomes of its training is said.
    """
    if cfg.launcher == 'pytorch':  # torchrun's own end, be it by SIGKILL
        end_with_parent(signal.SIGTERM)
    if not torch.cuda.is_available() and _drop_amp(cfg) and trains:
        print_log('Mixed precision needs a GPU: training in float32', 'current')
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _start_cpu_processes(cfg)
    with config_errors():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else CheckpointRunner.from_cfg(cfg)
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            _EARLY_LOG.setTarget(handler)
            _EARLY_LOG.flush()
    _tell(runner)
    return runner


def _tell(runner: Runner) -> None:
    """Say in a few lines what runs, on what, and where the rest can be read."""
    model = unwrap(runner.model)
    count = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f'CPU, {torch.get_num_threads()} threads'
    logger = runner.logger
    logger.info(
        f'Model: {type(model).__name__}, {count / 1e6:.2f} M parameters, '
        f'{trained / 1e6:.2f} M of them trainable'
    )
    logger.info(
        f'Device: {device}; {runner.world_size} process(es); seed {runner.seed}; '
        f'PyTorch {torch.__version__}'
    )
    logger.info(f'Config, environment and hooks are in {logger.log_file}')


def _drop_amp(cfg: Config) -> bool:
    """On a CPU train in float32, since mmengine refuses mixed precision there; whether it would."""
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') != 'AmpOptimWrapper':
        return False
    wrapper['type'] = 'OptimWrapper'
    for key in ('dtype', 'loss_scale', 'use_fp64'):
        wrapper.pop(key, None)
    return True


def _start_cpu_processes(cfg: Config) -> None:
    """Do on CPUs what mmengine does on GPUs alone: gloo, and DDP without device ids."""
    torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    if _replace_sync_bn(cfg.model):
        print_log(
            'SyncBN needs GPUs: on CPUs each process normalises its own batch (BN)', 'current'
        )
        # Running statistics are averaged before each validation.
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='SyncBuffersHook')]


def _replace_sync_bn(cfg) -> bool:
    """Turn every ``type='SyncBN'`` below cfg into BN; whether there was one."""
    items = cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, list | tuple) else ()
    found = any([_replace_sync_bn(item) for item in items])
    if isinstance(cfg, dict) and cfg.get('type') == 'SyncBN':
        cfg['type'] = 'BN'
        return True
    return found
