"""Signals: a run that is asked to end saves first, and nothing that it started outlives it."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import torch
from mmengine import dist
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import distributed

from kat_mm.arguments import check_int
from kat_mm.engine.checkpoint_hook import AtomicCheckpointHook

_PR_SET_PDEATHSIG = 1


class Terminated(Exception):
    """A run was asked to end by SIGTERM, and has saved."""

    status = 128 + signal.SIGTERM


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, in whatever way."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def init_worker(parent: int, worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """What a worker of a data loader does first.

    Schedulers and terminals signal every process of a job. A worker leaves that to its parent,
    which would take its end for a failure, and ends with it, or when it says so.

    Args:
        parent: The parent's process id.
        worker_init_fn: What else to do, with the worker's number.
        worker_id: Its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_for, args=(parent,), daemon=True).start()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # which ended before the line above
        os._exit(1)
    if worker_init_fn is not None:
        worker_init_fn(worker_id)


def _end_for(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


class PreemptionHook(Hook):
    """At SIGTERM save a checkpoint at the end of the iteration, and end with status 143.

    Slurm, docker and spot machines send it some seconds before they kill. A validation is left at
    its next batch, and made again by the resumed run. Of several processes it is enough that one
    gets the signal: they agree on the iteration on the CPU, beside the training.

    Args:
        interval: Every how many iterations several processes ask each other, which takes them a
            third of a millisecond; they save in the iteration after that. Default: 8.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 8):
        check_int('PreemptionHook', 'interval', interval, least=1)
        self.interval = interval
        self._iterations = 0
        self._asked = False
        self._group = None
        self._pending = None
        self._asks_in_validation = True

    def before_train(self, runner: Runner) -> None:
        signal.signal(signal.SIGTERM, self._ask)
        if dist.get_world_size() > 1:
            self._group = distributed.new_group(backend='gloo')

    def after_train(self, runner: Runner) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._settle()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if self._all_agree():
            self._end(runner, lambda hook: hook.save_now(runner, batch_idx))

    def before_val(self, runner: Runner) -> None:
        asked = self._asked
        if self._group is not None:
            batches = len(runner.val_dataloader)
            most = torch.tensor([int(asked), batches, -batches])
            distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self._group)
            asked, most_batches, least_batches = most[0].item(), most[1], -most[2]
            # Otherwise not all would be asked.
            self._asks_in_validation = bool(most_batches == least_batches)
        if asked:
            self._end(runner, lambda hook: hook.save_before_validation(runner))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._asks_in_validation and self._all_agree():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # has put the averaged weights into the model
                    hook._swap_ema_parameters()
            self._end(runner, lambda hook: hook.save_before_validation(runner))

    def _ask(self, number, frame) -> None:
        self._asked = True

    def _all_agree(self) -> bool:
        if self._group is None:
            return self._asked
        # What was asked an iteration ago has arrived meanwhile.
        agreed = self._settle()
        self._iterations += 1
        if self._iterations % self.interval == 0:
            flag = torch.tensor([int(self._asked)])
            work = distributed.all_reduce(
                flag, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            self._pending = work, flag
        return agreed

    def _settle(self) -> bool:
        if self._pending is None:
            return False
        work, flag = self._pending
        self._pending = None
        work.wait()
        return bool(flag)

    def _end(self, runner: Runner, save: Callable[[AtomicCheckpointHook], None]) -> NoReturn:
        for hook in runner.hooks:
            if isinstance(hook, AtomicCheckpointHook):
                save(hook)
                runner.logger.info(f'Asked to end: the state of the run is in {hook.last_ckpt}')
        self._settle()
        if self._group is not None:  # or the first to end would end the one that writes
            distributed.barrier(self._group)
        raise Terminated
