"""AtomicCheckpointHook: a run killed at any moment loses nothing, and goes on by itself."""

import errno
import io
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import ClassVar
from unittest import mock

import pytest
import torch
from mmengine.fileio import BaseStorageBackend, FileClient, register_backend
from one_parameter import make_runner

from kat_mm import whole_files as files
from kat_mm.engine.work_dir import latest_checkpoint
from kat_mm.errors import UserError


class Killed(BaseException):
    pass


def killed_at(last, train):
    """Run until a number of changes of files are made; whether there were more."""
    changes = 0

    def counted(original):
        def change(*args, **kwargs):
            nonlocal changes
            changes += 1
            if changes > last:
                raise Killed
            return original(*args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, 'replace'), (Path, 'unlink'), (files, '_sync')):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            train()
        except Killed:
            return True
    return False


def wholes(folder):
    return sorted(path.name for path in folder.glob('*.pth') if zipfile.is_zipfile(path))


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']['weight']


def resume(folder, **kwargs):
    latest = latest_checkpoint(str(folder))
    runner = make_runner(folder, load_from=latest, resume=latest is not None, **kwargs)
    runner.train()
    return latest


NAMES = {False: 'iter_6.pth', True: 'epoch_3.pth'}


def slow(*values, **kwargs):
    return pytest.param(*values, marks=pytest.mark.slow, **kwargs)


@pytest.mark.parametrize(
    'by_epoch, hooks',
    [
        pytest.param(True, (), id='by epoch'),
        pytest.param(False, (dict(type='EMAHook'),), id='averaged'),
        slow(False, (), id='by iteration'),
        slow(True, (dict(type='EMAHook'),), id='averaged by epoch'),
    ],
)
def test_a_run_killed_at_any_change_of_a_file_ends_as_one_never_killed(by_epoch, hooks, tmp_path):
    make_runner(tmp_path / 'whole', by_epoch, hooks).train()
    best, last = expected = wholes(tmp_path / 'whole')
    assert best.startswith('best_score_') and last == NAMES[by_epoch]
    for changes in range(100):
        folder = tmp_path / str(changes)
        if not killed_at(changes, make_runner(folder, by_epoch, hooks).train):
            break
        resume(folder, by_epoch=by_epoch, hooks=hooks)
        assert wholes(folder) == expected
        assert not list(folder.glob('.*.tmp'))
        for name in expected:
            assert torch.equal(weights(folder / name), weights(tmp_path / 'whole' / name))
    assert changes > 20


@pytest.mark.parametrize('by_epoch', [False, True])
def test_once_there_is_a_whole_checkpoint_there_is_always_one(by_epoch, tmp_path):
    found = []
    for changes in range(100):
        folder = tmp_path / str(changes)
        if not killed_at(changes, make_runner(folder, by_epoch).train):
            break
        kept = [name for name in wholes(folder) if not name.startswith('best')]
        found.append(len(kept))
        # None is half written under its name.
        assert len(wholes(folder)) == len(list(folder.glob('[!.]*.pth')))
    # The file is synced, and then gets its name.
    assert found[:3] == [0, 0, 1]
    assert set(found[2:]) == {1, 2}


def test_a_validation_that_was_killed_is_made_again(tmp_path):
    def killed(loss):
        raise Killed

    with pytest.raises(Killed):
        make_runner(tmp_path, score=killed).train()
    assert wholes(tmp_path) == ['iter_2.pth']
    scores = []
    resume(tmp_path, score=lambda loss: scores.append(loss) or -loss)
    assert len(scores) == 3
    # A run that is done validates nothing.
    resume(tmp_path, score=killed)


def test_a_moved_run_goes_on_with_its_own_files_alone(tmp_path):
    scores = iter([1.0])
    with pytest.raises(StopIteration):
        make_runner(tmp_path / 'a', score=lambda loss: next(scores)).train()
    assert wholes(tmp_path / 'a') == ['best_score_iter_2.pth', 'iter_4.pth']
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'a').iterdir() if path.is_file()}
    scores = iter([0.0, 2.0])
    latest = resume(tmp_path / 'b', score=lambda loss: next(scores))
    assert latest == str(tmp_path / 'b' / 'iter_4.pth')
    assert wholes(tmp_path / 'b') == ['best_score_iter_6.pth', 'iter_6.pth']
    for name, content in before.items():
        assert (tmp_path / 'a' / name).read_bytes() == content


def test_a_run_from_anothers_checkpoint_removes_nothing_of_it(tmp_path):
    make_runner(tmp_path / 'a', checkpoint=dict(max_keep_ckpts=3)).train()
    before = wholes(tmp_path / 'a')
    scores = iter([2.0])
    make_runner(
        tmp_path / 'b',
        score=lambda loss: next(scores),
        load_from=str(tmp_path / 'a/iter_4.pth'),
        resume=True,
    ).train()
    assert wholes(tmp_path / 'a') == before
    assert wholes(tmp_path / 'b') == ['best_score_iter_6.pth', 'iter_6.pth']
    assert torch.equal(weights(tmp_path / 'b/iter_6.pth'), weights(tmp_path / 'a/iter_6.pth'))


def test_a_full_disk_ends_in_a_message_and_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    def full(source, target, original=os.replace):
        if 'iter_4' in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target)

    monkeypatch.setattr(os, 'replace', full)
    message = 'cannot write checkpoint .*iter_4.pth: No space left on device.*--resume'
    with pytest.raises(UserError, match=message):
        make_runner(tmp_path).train()
    assert wholes(tmp_path) == ['best_score_iter_2.pth', 'iter_2.pth']
    monkeypatch.undo()
    assert resume(tmp_path) == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('score', [float('nan'), float('inf')])
def test_no_best_is_made_of_a_score_that_is_not_finite(score, tmp_path):
    make_runner(tmp_path, score=lambda loss: score).train()
    assert wholes(tmp_path) == ['iter_6.pth']


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    make_runner(tmp_path, score=lambda loss: 1.0, lr=1e30).train()
    assert wholes(tmp_path) == []


class Bucket(BaseStorageBackend):
    """Files in memory, as a backend that is no disk keeps them elsewhere."""

    files: ClassVar[dict] = {}

    def get(self, path):
        return self.files[path]

    get_text = get

    def put(self, content, path):
        self.files[path] = content

    def exists(self, path):
        return path in self.files

    isfile = exists

    def isdir(self, path):
        return False

    def remove(self, path):
        del self.files[path]

    def join_path(self, path, *parts):
        return '/'.join([path.rstrip('/'), *parts])


def test_another_backend_writes_as_it_does_which_is_said_once(tmp_path):
    for register in (register_backend, FileClient.register_backend):  # mmengine asks both
        register('bucket', Bucket, force=True, prefixes='bucket')
    Bucket.files.clear()
    scores = iter([2.0, 1.0, 0.0])
    runner = make_runner(
        tmp_path / 'run',
        checkpoint=dict(out_dir='bucket://results'),
        score=lambda loss: next(scores),
    )
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.logger.setLevel('INFO')
    runner.train()
    assert set(Bucket.files) == {
        f'bucket://results/run/{name}.pth' for name in ('iter_6', 'best_score_iter_2')
    }
    (word,) = [line for line in said if 'decides whether a checkpoint is whole' in line]
    assert word.startswith('Bucket of bucket://results/run ')
    file = io.BytesIO(Bucket.files['bucket://results/run/iter_6.pth'])
    content = torch.load(file, weights_only=False)
    assert content['meta']['iter'] == 6
    assert wholes(tmp_path / 'run') == []


def test_a_checkpoint_does_not_say_what_is_removed_elsewhere(tmp_path):
    """The names of old files are in it, and it may be somebody else's."""

    def killed(loss):
        raise Killed

    folder, victims = tmp_path / 'run', [tmp_path / 'a.txt', tmp_path / 'b.pth']
    with pytest.raises(Killed):
        make_runner(folder, score=killed).train()
    for victim in victims:
        victim.touch()
    content = torch.load(folder / 'iter_2.pth', weights_only=False)
    content['message_hub']['runtime_info'].update(
        obsolete_ckpts=[str(victims[0]), '../b.pth'],
        keep_ckpt_ids=['../../b'],
        best_ckpt=str(victims[0]),
        best_score=-1e9,
    )
    torch.save(content, folder / 'iter_2.pth')
    (folder / 'iter_..').mkdir()
    resume(folder)
    assert wholes(folder)[-1] == 'iter_6.pth'
    assert all(victim.exists() for victim in victims)


@pytest.mark.parametrize('by_epoch, said', [(False, 'at iter 6, and'), (True, 'at epoch 3, and')])
def test_a_run_that_is_done_says_so(by_epoch, said, tmp_path):
    make_runner(tmp_path, by_epoch).train()
    latest = latest_checkpoint(str(tmp_path))
    runner = make_runner(tmp_path, by_epoch, load_from=latest, resume=True)
    with mock.patch.object(runner.logger, 'warning') as warning:
        runner.train()
    told = [call.args[0] for call in warning.call_args_list]
    assert [said in words and 'nothing is left to train' in words for words in told].count(
        True
    ) == 1
    runner = make_runner(tmp_path / 'new', by_epoch)
    with mock.patch.object(runner.logger, 'warning') as warning:
        runner.train()
    assert not any('left to train' in call.args[0] for call in warning.call_args_list)
