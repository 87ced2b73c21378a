import random

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Make the random numbers of an iteration depend on (seed, iteration, rank) alone.

    A resumed run then draws the drop paths and dropouts that the run would have drawn that was
    never stopped. Augmentation has ``SeededInfiniteSampler`` for the same purpose.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        key = (runner.seed or 0, runner.iter, dist.get_rank())
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class AverageLossHook(Hook):
    """Log losses as means over all processes; mmengine logs those of process 0."""

    # Before RuntimeInfoHook, which hands the losses to the logger.
    priority = 'HIGHEST'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if not outputs or dist.get_world_size() == 1:
            return
        names = sorted(outputs)
        values = torch.stack([torch.as_tensor(outputs[name]).detach().float() for name in names])
        dist.all_reduce(values, op='mean')
        outputs.update(zip(names, values.unbind(), strict=True))
