import random
from contextlib import ExitStack

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kat_mm.arguments import check_int
from kat_mm.engine.loading import unwrap
from kat_mm.visualization.activations import PreActivations


class SeedIterationHook(Hook):
    """Make the random numbers of an iteration depend on (seed, iteration, rank) alone.

    A resumed run then draws the drop paths and dropouts that the run would have drawn that was
    never stopped. Augmentation has the seeded samplers and ``SeedAugmentation`` for that.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        key = (runner.seed or 0, runner.iter, dist.get_rank())
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


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


class PlotRationalsHook(Hook):
    """Draw the learned functions of a KAT, and what goes into them, while it trains.

    The picture goes through the run's visualizer, to each of its backends: local files,
    TensorBoard, W&B.

    Args:
        interval: Iterations from one picture to the next; the first iteration has one too.
            Default: 1000.
    """

    def __init__(self, interval: int = 1000):
        check_int('PlotRationalsHook', 'interval', interval, least=1)
        self.interval = interval
        self._inputs, self._listening = None, ExitStack()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if dist.is_main_process() and runner.iter % self.interval == 0:
            self._inputs = self._listening.enter_context(PreActivations(unwrap(runner.model)))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if self._inputs is None:
            return
        # Imported here: matplotlib is for those who draw.
        from kat_mm.visualization.rational import (
            figure_to_image,
            plot_rationals,
            starting_fits,
        )

        self._listening.close()
        model = unwrap(runner.model)
        figure = plot_rationals(model.state_dict(), self._inputs, starting_fits(model))
        runner.visualizer.add_image('rationals', figure_to_image(figure), step=runner.iter)
        self._inputs = None
