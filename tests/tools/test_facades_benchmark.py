"""benchmarks/facades.py: what does not need hours of training."""

import argparse
import ast
import importlib
import os
import signal
import sys
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from kat_mm.errors import UserError


@pytest.fixture
def facades(run_benchmark):  # which puts benchmarks/ on the path
    return importlib.import_module('facades')


def test_an_unknown_run_is_named(run_benchmark, capsys):
    assert run_benchmark('facades.py', 'train', 'kat_s_upernet_7') == 2
    assert "'kat_s_upernet_7' is none of the runs kat_s_upernet_0, " in capsys.readouterr().err


def test_names_may_stand_behind_options(facades, monkeypatch):
    words = ['train', '--gpus', '2', 'vit_s_upernet_0', '--iterations', '8']
    monkeypatch.setattr('sys.argv', ['facades.py', *words])
    args = facades.parse_args()
    assert (args.runs, args.gpus, args.iterations) == (['vit_s_upernet_0'], 2, 8)


def test_a_detector_starts_from_the_label_maps_of_its_own_model(facades):
    assert len(facades.RUNS) == 12
    for name, run in facades.RUNS.items():
        assert run.config.exists()
        start = None if 'upernet' in name or 'scratch' in name else f'{run.model}_upernet_0'
        assert (run.start and str(run.start)) == start


class Training:
    """Stands for a process that completes its run at the second look, or fails."""

    def __init__(self, run, gpu, args, status=0):
        self.run, self.gpu, self.args, self.status = run, gpu, args, status
        self.looks, self.returncode = 0, None

    def terminate(self):
        self.status = 1

    def poll(self):
        self.looks += 1
        if self.looks > 1 and self.returncode is None:
            self.returncode = self.status
            if not self.status:
                folder = self.args.work_dirs / str(self.run)
                folder.mkdir(parents=True)
                (folder / 'summary.json').touch()
        return self.returncode


@pytest.fixture
def trainings(facades, monkeypatch, tmp_path):
    """``train_on_gpus`` for some names, and what it started; those in ``fails`` fail."""
    started = []

    def share(*names, gpus, per_gpu, fails=(), ends_at=None):
        args = argparse.Namespace(gpus=gpus, per_gpu=per_gpu, work_dirs=tmp_path / 'runs')

        def start(run, gpu, args):
            busy = [one for one in started if one.returncode is None]
            assert sum(one.gpu == gpu for one in busy) < per_gpu
            assert not run.start or facades.is_complete(run.start, args)
            started.append(Training(run, gpu, args, str(run) in fails))
            if str(run) == ends_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return started[-1]

        monkeypatch.setattr(facades, 'start', start)
        facades.train_on_gpus([facades.RUNS[name] for name in names], args)

    monkeypatch.setattr('time.sleep', lambda seconds: None)
    before = signal.getsignal(signal.SIGTERM)
    yield share, started
    signal.signal(signal.SIGTERM, before)


def test_gpus_share_the_runs_and_starts_come_first(trainings, facades):
    share, started = trainings
    share(*facades.RUNS, gpus=2, per_gpu=2)
    assert sorted(str(one.run) for one in started) == sorted(facades.RUNS)
    assert {one.gpu for one in started} == {0, 1}
    started.clear()
    share(*facades.RUNS, gpus=2, per_gpu=2)  # all are complete
    assert not started


def test_what_runs_ends_where_it_is_asked_to(trainings):
    share, started = trainings
    names = ['kat_s_upernet_0', 'vit_s_upernet_0', 'kat_s_mask_rcnn_scratch_0']
    with pytest.raises(UserError, match='not complete'):
        share(*names, gpus=2, per_gpu=1, ends_at='vit_s_upernet_0')
    assert [str(one.run) for one in started] == names[:2]
    assert [one.status for one in started] == [1, 1]


def test_a_training_is_handed_on_what_asks_to_end(facades):
    code = 'import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)'
    with pytest.raises(UserError, match=f'kat_s_upernet_0 ended with status {-signal.SIGTERM},'):
        facades.call(facades.RUNS['kat_s_upernet_0'], [sys.executable, '-c', code])


@pytest.mark.parametrize(
    ('options', 'visible', 'word'),
    [
        (['--gpus', '0'], '', 'at least 1'),
        (['--per-gpu', '0'], '', 'at least 1'),
        (['--iterations', '0'], '', '--iterations: at least 4'),
        (['--iterations', '9', '--validations', '0'], '', '--validations: at least 1'),
        (['--options', 'a=1', 'kat_s_upernet_0'], '', "'kat_s_upernet_0' is no KEY=VALUE"),
        (['--gpus', '3'], '4,5', 'CUDA_VISIBLE_DEVICES=4,5 shows fewer'),
    ],
)
def test_arguments_that_cannot_be(options, visible, word, run_benchmark, monkeypatch, capsys):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert run_benchmark('facades.py', 'train', *options) == 2
    assert word in capsys.readouterr().err


def test_gpus_are_those_that_are_visible(facades, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5')
    monkeypatch.setattr('sys.argv', ['facades.py', '--gpus', '2', 'train', '--options', 'a=1'])
    args = facades.parse_args()
    with mock.patch('subprocess.Popen') as popen:
        facades.start(facades.RUNS['kat_s_upernet_0'], 1, args)
    (command,), named = popen.call_args
    assert named['env']['CUDA_VISIBLE_DEVICES'] == '5'
    assert command[2:4] == ['train', 'kat_s_upernet_0'] and command[-2:] == ['--options', 'a=1']


def test_a_run_that_fails_ends_the_others_behind_it(trainings):
    share, started = trainings
    with pytest.raises(UserError, match='not complete: kat_s_upernet_0, kat_s_mask_rcnn_1; the'):
        share('kat_s_upernet_0', 'kat_s_mask_rcnn_1', gpus=1, per_gpu=2, fails=['kat_s_upernet_0'])
    assert [str(one.run) for one in started] == ['kat_s_upernet_0']


def test_a_run_that_is_complete_with_other_iterations_is_refused(facades, tmp_path, capsys):
    run = facades.RUNS['kat_s_upernet_0']
    (tmp_path / str(run)).mkdir()
    (tmp_path / str(run) / 'summary.json').write_text('{"iterations": 20}')
    args = argparse.Namespace(work_dirs=tmp_path, iterations=20)
    facades.require_iterations([run, facades.RUNS['vit_s_upernet_0']], args)
    assert capsys.readouterr().out == 'kat_s_upernet_0 is complete, with 20 iterations\n'
    for asked, wanted in ((8, 8), (None, 5000)):
        args.iterations = asked
        with pytest.raises(UserError, match=f'with 20 iterations, not {wanted}: give --iter'):
            facades.require_iterations([run], args)


def test_pictures_are_of_what_a_run_predicted_on(facades, tmp_path):
    run = facades.RUNS['kat_s_upernet_0']
    for folder in ('val', 'labels/val'):
        (tmp_path / 'data' / folder).mkdir(parents=True)
    for index in range(9):
        for name in (f'val/{index}.jpg', f'labels/val/{index}.png'):
            (tmp_path / 'data' / name).touch()
    (tmp_path / str(run)).mkdir()
    cfg = Config.fromfile(run.config)
    cfg.merge_from_dict({'test_dataloader.dataset.indices': 3})
    cfg.dump(tmp_path / str(run) / run.config.name)
    args = argparse.Namespace(work_dirs=tmp_path, data=tmp_path / 'data')
    assert len(facades.build_dataset(run, args)) == 3


@pytest.mark.parametrize('head', ['mask_rcnn', 'eomt_instance', 'upernet'])
def test_the_shortest_run_comes_to_its_rate(head, facades):
    cfg = Config.fromfile(facades.RUNS[f'kat_s_{head}_0'].config)
    init_default_scope(cfg.default_scope)
    options = dict(option.split('=') for option in facades.shorten(cfg, 4, 1))
    cfg.merge_from_dict({key: ast.literal_eval(value) for key, value in options.items()})
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [
        dict(params=[one], in_backbone=own)
        for one, own in zip(parameters, (True, False), strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    parts = [
        PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer)) for part in cfg.param_scheduler
    ]
    rates = []
    for _ in range(4):
        rates.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        for part in parts:
            part.step()
    assert all(max(of_group) >= 0.5 for of_group in zip(*rates, strict=True))


@pytest.mark.parametrize('head', ['mask_rcnn', 'eomt_instance', 'upernet'])
def test_a_shorter_run_has_its_schedule_in_proportion(head, facades):
    cfg = Config.fromfile(facades.RUNS[f'kat_s_{head}_0'].config)
    init_default_scope(cfg.default_scope)
    iterations = cfg.train_cfg.max_iters // 10
    options = dict(option.split('=') for option in facades.shorten(cfg, iterations, 4))
    short = cfg.copy()
    short.merge_from_dict({key: ast.literal_eval(value) for key, value in options.items()})
    assert short.train_cfg.max_iters == iterations
    assert short.train_cfg.val_interval == short.default_hooks.checkpoint.interval
    assert 4 * short.train_cfg.val_interval >= iterations
    for part, whole in zip(
        [*short.param_scheduler, *short.custom_hooks],
        [*cfg.param_scheduler, *cfg.custom_hooks],
        strict=True,
    ):
        for key in ('begin', 'end', 'head_iters', 'backbone_iters'):
            if key in whole:
                long, got = torch.tensor(whole[key]), torch.tensor(part[key])
                assert ((10 * got - long) >= 0).all() and ((10 * got - long) < 10).all(), key


def test_predictions_are_read_as_they_were_written(facades, tmp_path):
    masks = torch.rand(3, 8, 9) > 0.5
    found = InstanceData(
        bboxes=torch.rand(3, 4),
        labels=torch.tensor([1, 0, 2]),
        scores=torch.tensor([0.9, 0.1, 0.4]),
        masks=masks,
    )

    class Sample(dict):
        pred_instances = found
        pred_sem_seg = PixelData(data=torch.randint(10, (1, 8, 9)))

    for key in ('pred_instances', 'pred_sem_seg'):
        samples = [Sample({key: None})] * facades.PHOTOGRAPHS
        facades.write_predictions(samples, tmp_path / 'file.npz')
        read = facades.read_predictions(tmp_path / 'file.npz')
        assert len(read) == facades.PHOTOGRAPHS
        if key == 'pred_sem_seg':
            assert torch.equal(read[1].pred_sem_seg.data.long(), Sample.pred_sem_seg.data)
        else:
            confident = read[1].pred_instances
            assert confident.labels.tolist() == [1, 2]
            assert torch.equal(confident.masks, masks[[0, 2]])


def test_nothing_to_gather_is_said(facades, tmp_path):
    args = facades.argparse.Namespace(work_dirs=tmp_path)
    with pytest.raises(UserError, match='holds no complete run'):
        facades.gather(list(facades.RUNS.values()), args)


def test_a_run_shorter_than_a_line_of_its_log_is_refused(facades):
    with pytest.raises(UserError, match=r'no iteration: train more than .*logger\.interval'):
        facades.summarize([{'mIoU': 3.0, 'step': 4}], 'mIoU', 2)
