import collections
from collections.abc import Callable

import torch
from mmengine.hooks import LoggerHook
from mmengine.hooks import RuntimeInfoHook as _RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor


class LateRuntimeInfoHook(_RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, which does not stop the host for the losses of an iteration.

    mmengine reads each loss as soon as its iteration was started. The host then waits for the GPU,
    and the GPU for what the host could have prepared. Here losses are copied beside the work and
    reach the message hub when they are there: in their order, and before anything is logged or
    saved, so that logs and checkpoints hold what they held. So does the norm of clipped gradients.
    A hook of one's own that reads ``train/loss`` from the hub in every iteration finds that of an
    earlier one.
    """

    def __init__(self):
        self._underway = collections.deque()
        self._clip = None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._clip = clip_late(runner.optim_wrapper)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if outputs is not None:
            norm = self._clip.take() if self._clip is not None else {}
            self._underway.append(on_the_way({**outputs, **norm}))
        self._arrive(runner, whole=self._is_read(runner, batch_idx))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._underway:
            self._arrive(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner: Runner) -> None:
        self._arrive(runner)
        super().after_train(runner)

    def before_val(self, runner: Runner) -> None:
        self._arrive(runner)
        super().before_val(runner)

    def _is_read(self, runner: Runner, batch_idx: int) -> bool:
        """Whether a logger reads the hub in this iteration."""
        if self.is_last_train_iter(runner) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            return True
        return any(
            self.every_n_inner_iters(batch_idx, hook.interval)
            or self.every_n_train_iters(runner, hook.interval)
            for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        )

    def _arrive(self, runner: Runner, whole: bool = True) -> None:
        """Hand on what is there; all of it, if ``whole``."""
        while self._underway:
            names, values, event = self._underway[0]
            if event is not None and not event.query():
                if not whole:
                    return
                event.synchronize()
            self._underway.popleft()
            for name, value in zip(names, values, strict=True):
                runner.message_hub.update_scalar(f'train/{name}', value)


class LateClip:
    """A function that clips gradients, of whose norm mmengine hears nothing.

    It would make a number of it, between the backward pass and the optimizer.
    """

    def __init__(self, clip: Callable, name: str):
        self._clip, self._name, self._norm = clip, name, None

    def __call__(self, *args, **kwargs) -> None:
        self._norm = self._clip(*args, **kwargs)

    def take(self) -> dict:
        """The norm by its name, once, where gradients were clipped."""
        norm, self._norm = self._norm, None
        return {} if norm is None else {self._name: norm}


def clip_late(optim_wrapper: OptimWrapper) -> LateClip | None:
    """Let a wrapper that clips gradients not wait for their norm; None if it does not clip."""
    if not getattr(optim_wrapper, 'clip_grad_kwargs', None):
        return None
    if not isinstance(optim_wrapper.clip_func, LateClip):
        optim_wrapper.clip_func = LateClip(optim_wrapper.clip_func, optim_wrapper.grad_name)
    return optim_wrapper.clip_func


def on_the_way(outputs: dict) -> tuple[list[str], list, torch.cuda.Event | None]:
    """Names, values and what tells that these have come from the device."""
    values = list(outputs.values())
    event = None
    if any(isinstance(value, Tensor) and value.is_cuda for value in values):
        values = [
            value.detach().to('cpu', non_blocking=True) if isinstance(value, Tensor) else value
            for value in values
        ]
        event = torch.cuda.Event()
        event.record()
    return list(outputs), values, event
