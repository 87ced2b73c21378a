"""Numbers that are not finite end a run, or do not enter it."""

import collections

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from kat_mm.arguments import check_bools, check_int
from kat_mm.errors import UserError


def non_finite_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of a model that hold NaN or an infinity."""
    model = model.module if is_model_wrapper(model) else model
    named = [(name, p.detach()) for name, p in model.named_parameters() if p.is_floating_point()]
    if not named:
        return []
    # One answer from the device, not one for each parameter.
    finite = torch.stack([torch.isfinite(values).all() for _, values in named]).tolist()
    return [name for (name, _), whole in zip(named, finite, strict=True) if not whole]


class FiniteLossHook(Hook):
    """End a run whose loss stays NaN or infinite.

    The loss stays on its device: it is looked at once in ``patience`` iterations, and at the end.

    Args:
        patience: For how many iterations in a row the loss may not be finite. A loss scale that is
            still being found may give a few. Default: 10.
        stop: Whether to end the run; otherwise it is warned and goes on. Default: True.
    """

    # Behind AverageLossHook, so that all processes see the same, and before checkpoints.
    priority = 'HIGH'

    def __init__(self, patience: int = 10, stop: bool = True):
        check_int('FiniteLossHook', 'patience', patience, least=1)
        check_bools('FiniteLossHook', stop=stop)
        self.patience = patience
        self.stop = stop
        self._in_a_row: torch.Tensor | None = None
        # Of the latest iterations, for schedules may have ended when it is looked.
        self._rates: collections.deque[float] = collections.deque(maxlen=2 * patience)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if not outputs or 'loss' not in outputs:
            return
        finite = torch.isfinite(torch.as_tensor(outputs['loss']).detach()).all()
        before = 0 if self._in_a_row is None else self._in_a_row
        self._in_a_row = torch.where(finite, 0, 1 + before)
        self._rates.append(max(max(rates) for rates in runner.optim_wrapper.get_lr().values()))
        last = self.is_last_train_iter(runner)
        if not last and not self.every_n_train_iters(runner, self.patience):
            return
        in_a_row = self._in_a_row.item()
        if not in_a_row:
            return
        rate = self._rates[-min(in_a_row, len(self._rates))]
        message = (
            f'the loss is not finite since iteration {runner.iter + 2 - in_a_row}, for {in_a_row} '
            f'iterations; the learning rate was {rate:.3g}. Try a lower learning rate '
            'or a longer warm-up, clip gradients (optim_wrapper.clip_grad=dict(max_norm=1.0)), or '
            'bfloat16 or float32 in place of float16'
        )
        if self.stop and (last or in_a_row >= self.patience):
            raise UserError(
                f'{message}. To go on nonetheless: '
                '--cfg-options default_hooks.finite_loss.stop=False'
            )
        runner.logger.warning(message)
