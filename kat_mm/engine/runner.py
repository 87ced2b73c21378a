import contextlib
import copy
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmengine.runner.checkpoint import find_latest_checkpoint, load_state_dict
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from kat_mm.backbones import convert_for_model, drop_start_weights
from kat_mm.checkpoints.state_dict import check_finite
from kat_mm.dense import compile_parts, graph_parts
from kat_mm.engine.console import quiet_terminal
from kat_mm.engine.loading import unwrap
from kat_mm.engine.signals import init_worker
from kat_mm.errors import config_errors, some
from kat_mm.weights import read_weights
from kat_mm.whole_files import write_whole

# Which mmengine registers where a config does not say None, and takes away where it does.
_MMENGINES_HOOKS = (
    'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'
)  # fmt: skip


class CheckpointRunner(Runner):
    """mmengine's Runner, whose ``load_from`` takes every checkpoint that a KAT can start from.

    Files are read without running code in them, also where mmengine would. The workers of the data
    loaders end with a run, be it by an error.
    """

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """mmengine's, which tells environment, config and hooks to its file alone."""
        logger = super().build_logger(*args, **kwargs)
        quiet_terminal(logger)
        return logger

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """mmengine's, but that None takes away the hooks of other names too."""
        super().register_default_hooks(
            {
                name: hook
                for name, hook in (hooks or {}).items()
                if hook is not None or name in _MMENGINES_HOOKS
            }
        )

    @master_only
    def dump_config(self) -> None:
        """mmengine's, whole or not at all, and not through a link that the work folder holds."""
        name = os.path.basename(self.cfg.filename or f'{self.timestamp}.py')
        with write_whole(Path(self.work_dir, name)) as temporary:
            self.cfg.dump(str(temporary))

    def train(self) -> nn.Module:
        with self._stopping_workers():
            return super().train()

    def val(self) -> dict:
        with self._stopping_workers():
            return super().val()

    def test(self) -> dict:
        with self._stopping_workers():
            return super().test()

    @contextlib.contextmanager
    def _stopping_workers(self) -> Iterator[None]:
        """At the interpreter's exit each persistent worker of a pinning loader takes 5 seconds."""
        try:
            yield
        finally:
            for loop in (self._train_loop, self._val_loop, self._test_loop):
                loader = getattr(loop, 'dataloader', None)  # a loop that was not used is a dict
                iterator = getattr(loader, '_iterator', None)
                if iterator is not None:
                    iterator._shutdown_workers()
                    loader._iterator = None

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """mmengine's, whose data sets name the files that they cannot load or resize.

        Its workers leave signals to this process, and end with it. The config stays as it is.
        """
        if isinstance(dataloader, dict) and isinstance(dataloader['dataset'], dict):
            from kat_mm.datasets import check_loading  # needs mmcv

            dataloader = copy.deepcopy(dataloader)
            check_loading(dataloader['dataset'])
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        loader.worker_init_fn = functools.partial(init_worker, os.getpid(), loader.worker_init_fn)
        return loader

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's, where training by epochs can go on within an epoch."""
        if isinstance(loop, dict) and loop.get('by_epoch'):
            loop = {key: value for key, value in loop.items() if key != 'by_epoch'}
            loop['type'] = 'ResumableEpochLoop'
        with config_errors('train_cfg with train_dataloader'):
            return super().build_train_loop(loop)

    # Built once the run begins, as the training loop is.

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        with config_errors('val_cfg with val_dataloader and val_evaluator'):
            return super().build_val_loop(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        with config_errors('test_cfg with test_dataloader and test_evaluator'):
            return super().build_test_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        with config_errors('optim_wrapper'):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler):
        with config_errors('param_scheduler'):
            return super().build_param_scheduler(scheduler)

    def _maybe_compile(self, target: str) -> None:
        """What mmengine does with ``compile``, part by part, and ``cuda_graphs``.

        It is called where a model is about to be trained (target 'train_step') or evaluated alone.
        """
        options, parts = self.cfg.get('compile') or None, self.cfg.get('cuda_graphs') or None
        model = unwrap(self.model)
        if options is not None:
            options = {} if options is True else options
            compile_parts(model, training=target == 'train_step', **options)
        if parts is None:
            return
        if not torch.cuda.is_available():
            self.logger.info('cuda_graphs needs a GPU: there are none')
        elif is_model_wrapper(self.model) and not isinstance(self.model, DistributedDataParallel):
            self.logger.warning(
                f'CUDA graphs: none, since parameters move about in {type(self.model).__name__}'
            )
        else:
            graph_parts(model, *([] if parts is True else [parts]))

    def _init_model_weights(self) -> None:
        """mmengine's, but that weights which a checkpoint replaces are not got first.

        A run that goes on has all of them from its checkpoint; one that starts from another, those
        of the backbone.
        """
        if self._load_from or (self._resume and find_latest_checkpoint(self.work_dir)):
            drop_start_weights(self.model)
        super()._init_model_weights()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """mmengine's, with a word where the config is not followed, or the run is done already."""
        configured = self._optimization()
        super().resume(filename, *args, **kwargs)
        resumed = self._optimization()
        others = [
            f'{name}={resumed.get(name)!r}, not {configured.get(name)!r}'
            for name in {**configured, **resumed}
            if resumed.get(name) != configured.get(name)
        ]
        if others:
            self.logger.warning(
                f'The run goes on with the optimizer and schedule of {filename}, not with those of '
                f'the config: {some(others)}. For those of the config begin a run of its own with '
                f'load_from={filename}'
            )
        by_epoch = isinstance(self.train_loop, EpochBasedTrainLoop)
        unit, done, most = (
            ('epoch', self.epoch, self.max_epochs)
            if by_epoch
            else ('iter', self.iter, self.max_iters)
        )
        if done >= most:
            self.logger.warning(
                f'{filename} is at {unit} {done}, and train_cfg.max_{unit}s is {most}: nothing is '
                'left to train'
            )

    def _optimization(self) -> dict:
        """What a checkpoint brings along, of which configs are written: rates and schedules."""
        if not isinstance(self.optim_wrapper, OptimWrapper):
            return {}
        # The base of all groups, where there are several.
        base = self.optim_wrapper.param_groups[-1]
        found = {
            key: base.get(f'initial_{key}', base[key])
            for key in self.optim_wrapper.optimizer.defaults
        }
        schedulers = self.param_schedulers if isinstance(self.param_schedulers, list) else []
        for index, scheduler in enumerate(schedulers):
            for key, value in scheduler.state_dict().items():
                if not key.startswith('_') and key not in ('last_step', 'base_values', 'verbose'):
                    found[f'param_scheduler[{index}].{key}'] = value
        return {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in found.items()
            if not isinstance(value, torch.Tensor)
        }

    def load_checkpoint(
        self, filename: str, map_location='cpu', strict: bool = False, revise_keys=None
    ) -> dict:
        """Load a checkpoint of any layout; see :func:`kat_mm.backbones.convert_for_model`.

        ``map_location`` and ``revise_keys`` are mmengine's, and not needed.
        """
        model = unwrap(self.model)
        content = read_weights(filename)
        # In a file with averaged weights (EMA) these are the state dict. Only a resumed run needs
        # what else is in it.
        checkpoint = content if self._resume else {}
        checkpoint['state_dict'] = convert_for_model(content, model, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_state_dict(model, checkpoint['state_dict'], strict, self.logger)
        # Buffers may be infinite, as masks are.
        check_finite(dict(model.named_parameters()), filename)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint
