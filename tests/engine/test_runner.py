"""CheckpointRunner, on a model of one parameter."""

import multiprocessing

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from kat_mm.engine import CheckpointRunner
from kat_mm.engine import runner as runner_module
from kat_mm.errors import UserError


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1), data_samples=index)


class Model(BaseModel):
    def __init__(self, fails):
        super().__init__()
        self.weight, self.fails = nn.Parameter(torch.ones(1)), fails

    def forward(self, inputs, data_samples, mode='tensor'):
        if self.fails:
            raise RuntimeError('as it was told')
        return dict(loss=(self.weight * torch.stack(inputs)).sum())


def make_runner(work_dir, fails, iterations=True):
    loader = dict(
        dataset=Numbers(),
        batch_size=2,
        num_workers=2,
        persistent_workers=True,
        sampler=dict(type='InfiniteSampler' if iterations else 'DefaultSampler', shuffle=False),
    )
    loop = dict(by_epoch=False, max_iters=3) if iterations else dict(by_epoch=True, max_epochs=2)
    return CheckpointRunner(
        model=Model(fails),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None),
        log_level='ERROR',
        experiment_name=work_dir.name,
    )


BUILT_LATE = {
    'dataset': (
        lambda runner: runner._train_dataloader.update(dataset=dict(type=Numbers, size=3)),
        'train_cfg with train_dataloader cannot be built: TypeError: Numbers.. takes no arguments',
    ),
    'sampler': (
        lambda runner: runner._train_dataloader.update(sampler=dict(type='NoSampler')),
        'train_cfg with train_dataloader cannot be built: KeyError: .*NoSampler',
    ),
    'optimizer': (
        lambda runner: runner.optim_wrapper.update(optimizer=dict(type='SGD', rate=0.1)),
        "optim_wrapper cannot be built: TypeError: .*'rate'",
    ),
    'learning rate': (
        lambda runner: runner.optim_wrapper.update(optimizer=dict(type='SGD', lr=-1.0)),
        'optim_wrapper cannot be built: ValueError: .*-1.0',
    ),
    'schedule': (
        lambda runner: setattr(
            runner, 'param_schedulers', [dict(type='PolyLR', by_epoch=False, ende=3)]
        ),
        "param_scheduler cannot be built: TypeError: .*'ende'",
    ),
}


@pytest.mark.parametrize('part', BUILT_LATE)
def test_what_mmengine_builds_late_is_named_as_the_config_names_it(part, tmp_path):
    spoil, message = BUILT_LATE[part]
    runner = make_runner(tmp_path, fails=False)
    spoil(runner)
    with pytest.raises(UserError, match=message):
        runner.train()


@pytest.mark.parametrize('iterations', [True, False])
def test_workers_end_with_a_run(iterations, tmp_path):
    before = set(multiprocessing.active_children())
    make_runner(tmp_path, fails=False, iterations=iterations).train()
    assert not set(multiprocessing.active_children()) - before


def test_workers_end_with_a_run_that_fails(tmp_path):
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match='as it was told'):
        make_runner(tmp_path, fails=True).train()
    assert not set(multiprocessing.active_children()) - before


def test_a_config_compiles_and_graphs_the_parts_of_a_model(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for name in ('compile_parts', 'graph_parts'):
        monkeypatch.setattr(
            runner_module, name, lambda *args, _name=name, **kwargs: told.append((_name, kwargs))
        )
    runner = make_runner(tmp_path, fails=False)
    runner._maybe_compile('train_step')
    assert not told
    runner.cfg.merge_from_dict(dict(compile=dict(backend='eager'), cuda_graphs=True))
    runner._maybe_compile('train_step')
    runner.cfg.merge_from_dict(dict(compile=True, cuda_graphs=False))
    runner._maybe_compile('test_step')
    assert told == [
        ('compile_parts', dict(training=True, backend='eager')),
        ('graph_parts', {}),
        ('compile_parts', dict(training=False)),
    ]
