from collections.abc import Sequence

import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset


@torch.no_grad()
def predict(runner: Runner, dataset: Dataset, indices: Sequence[int]) -> list:
    """What the model of a runner predicts for samples of a data set, one by one, on the CPU."""
    model = runner.model.eval()
    return [model.test_step(pseudo_collate([dataset[index]]))[0].cpu() for index in indices]
