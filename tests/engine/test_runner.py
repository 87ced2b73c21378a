"""CheckpointRunner, on models of one parameter and of a small backbone."""

import itertools
import multiprocessing
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from kat_mm.backbones import KAT
from kat_mm.engine import CheckpointRunner
from kat_mm.engine import runner as runner_module
from kat_mm.errors import UserError

_names = itertools.count()


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


def make_runner(work_dir, fails=False, iterations=True, model=None, hooks=None, **kwargs):
    loader = dict(
        dataset=Numbers(),
        batch_size=2,
        num_workers=2,
        persistent_workers=True,
        sampler=dict(type='InfiniteSampler' if iterations else 'DefaultSampler', shuffle=False),
    )
    loop = dict(by_epoch=False, max_iters=3) if iterations else dict(by_epoch=True, max_epochs=2)
    return CheckpointRunner(
        model=model or Model(fails),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None, **(hooks or {})),
        log_level='ERROR',
        experiment_name=f'{work_dir.name}_{next(_names)}',
        **kwargs,
    )


def test_the_config_is_not_written_through_a_link(tmp_path):
    """A work folder from somebody else may have one of the config's name."""
    (tmp_path / 'precious').write_text('precious')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/config.py').symlink_to(tmp_path / 'precious')
    (tmp_path / 'config.py').write_text('a = 1')
    make_runner(tmp_path / 'run', cfg=Config.fromfile(tmp_path / 'config.py'))
    assert (tmp_path / 'precious').read_text() == 'precious'
    assert (tmp_path / 'run/config.py').read_text() == 'a = 1\n'


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
    runner = make_runner(tmp_path, fails=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for name in ('compile_parts', 'graph_parts'):
        monkeypatch.setattr(
            runner_module, name, lambda *args, _name=name, **kwargs: told.append((_name, kwargs))
        )
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


class Backboned(Model):
    """Starts from published weights, which no test can get."""

    def __init__(self):
        super().__init__(fails=False)
        arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
        init_cfg = dict(type='Pretrained', checkpoint='kat_t_in1k')
        self.backbone = KAT(arch, img_size=32, init_cfg=init_cfg)


def test_training_gets_the_weights_that_the_backbone_starts_from(tmp_path):
    with pytest.raises(UserError, match='cannot download .*kat_tiny_patch16_224'):
        make_runner(tmp_path, model=Backboned()).train()


def test_what_a_checkpoint_replaces_is_not_downloaded(tmp_path):
    class Started(Backboned):
        def init_weights(self):
            self.backbone.init_weights()
            assert self.backbone.norm.weight.eq(1).all()  # as from scratch, with what it lacks
            self.weight.data.fill_(1)

    donor = Started()
    torch.nn.init.constant_(donor.backbone.norm.bias, 3.0)
    torch.save(donor.state_dict(), tmp_path / 'weights.pth')
    runner = make_runner(tmp_path, model=Started(), load_from=str(tmp_path / 'weights.pth'))
    runner.train()
    assert runner.model.backbone.norm.bias.eq(3).all()
    runner.save_checkpoint(str(tmp_path), 'iter_3.pth')
    for source in (None, str(tmp_path / 'iter_3.pth')):
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))
        runner = make_runner(tmp_path, model=Started(), load_from=source, resume=True)
        runner.train()
        assert runner.model.backbone.norm.bias.eq(3).all()


def test_a_loader_names_what_it_cannot_load_and_its_config_stays():
    dataset = dict(type=Numbers, size=3, pipeline=[dict(type='LoadImageFromFile')])
    inner = dict(type='RepeatDataset', times=2, dataset=dataset)
    cfg = dict(dataset=inner, batch_size=1, sampler=dict(type='DefaultSampler'))
    with mock.patch.object(Runner, 'build_dataloader') as build:
        CheckpointRunner.build_dataloader(cfg)
    (built,) = build.call_args.args
    assert built['dataset']['dataset']['pipeline'][0]['type'] == 'LoadChecked'
    assert dataset['pipeline'] == [dict(type='LoadImageFromFile')]


class TwoParameters(Model):
    def __init__(self, fails=False):
        super().__init__(fails)
        self.bias = nn.Parameter(torch.ones(1))


def resumed_words(work_dir, lr, end, groups):
    """What a run of other settings says as it goes on from iter_2.pth."""
    runner = make_runner(
        work_dir,
        model=TwoParameters(),
        param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=end)],
        load_from=str(work_dir / 'iter_2.pth') if lr else None,
        resume=bool(lr),
    )
    runner.optim_wrapper['optimizer']['lr'] = lr or 0.1
    runner.optim_wrapper['paramwise_cfg'] = dict(custom_keys=groups)
    if not lr:
        runner.train()
        runner.save_checkpoint(str(work_dir), 'iter_2.pth', by_epoch=False)
        return None
    with mock.patch.object(runner.logger, 'warning') as warning:
        runner.train()
    return [call.args[0] for call in warning.call_args_list if 'goes on with' in call.args[0]]


@pytest.mark.parametrize('groups', [{}, dict(weight=dict(lr_mult=0.5))])
def test_a_resumed_run_tells_what_of_its_config_it_does_not_follow(groups, tmp_path):
    resumed_words(tmp_path, None, 4, groups)
    assert resumed_words(tmp_path, 0.1, 4, groups) == []
    (line,) = resumed_words(tmp_path, 0.2, 8, groups)
    assert 'lr=0.1, not 0.2' in line
    assert 'param_scheduler[0].end=4, not 8' in line
    assert f'load_from={tmp_path / "iter_2.pth"}' in line


def test_none_takes_a_hook_away_be_it_mmengines_or_not(tmp_path):
    def names(**hooks):
        return {type(hook).__name__ for hook in make_runner(tmp_path, hooks=hooks).hooks}

    finite = dict(finite_loss=dict(type='FiniteLossHook'))
    assert names(**finite) - names(finite_loss=None) == {'FiniteLossHook'}
    assert names() - names(timer=None) == {'IterTimerHook'}
