"""A run that takes a moment: a model of one parameter, validated after each checkpoint."""

import itertools

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from kat_mm.engine import CheckpointRunner

_names = itertools.count()


class Numbers(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.full((1,), float(index)), data_samples=index)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples, mode='tensor'):
        loss = (self.weight * torch.stack(inputs)).square().mean()
        return dict(loss=loss) if mode == 'loss' else [dict(loss=loss.item())]


class Score(BaseMetric):
    """What ``of`` gives for the weight."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(score=self.of(results[0]['loss']))


def make_runner(
    work_dir, by_epoch=False, hooks=(), score=lambda loss: -loss, lr=0.01, num_workers=0, **kwargs
):
    """6 iterations, or 3 epochs of 3; checkpoint and validation at every 2 iterations or epoch."""
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True, seed=0)
    checkpoint = dict(
        type='AtomicCheckpointHook',
        by_epoch=by_epoch,
        interval=1 if by_epoch else 2,
        max_keep_ckpts=1,
        save_best='score',
        rule='greater',
    )
    checkpoint.update(kwargs.pop('checkpoint', {}))
    loop = dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=6)
    return CheckpointRunner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Numbers(), batch_size=2, num_workers=num_workers, sampler=sampler
        ),
        val_dataloader=dict(
            dataset=Numbers(), batch_size=6, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(val_interval=1 if by_epoch else 2, **loop),
        val_cfg=dict(),
        val_evaluator=Evaluator(Score(score)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr, momentum=0.9)),
        default_hooks=dict(checkpoint=checkpoint),
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'one_parameter_{next(_names)}',
        **kwargs,
    )
