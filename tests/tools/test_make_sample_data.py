import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'make_sample_data.py'
FEW = ['--num-train', '2', '--num-val', '1', '--size', '48', '32']


@pytest.fixture
def main(monkeypatch):
    """The tool's main function, without the seconds that a new process takes to import."""
    monkeypatch.syspath_prepend(TOOL.parent)
    import make_sample_data

    before = signal.getsignal(signal.SIGTERM)
    yield make_sample_data.main
    signal.signal(signal.SIGTERM, before)


def start(*args):
    environment = dict(os.environ, PYTHONPATH=str(TOOL.parents[1]))
    return subprocess.Popen(
        [sys.executable, TOOL, *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_writes_a_data_set_and_knows_it_again(main, tmp_path, capsys):
    main(['coco', '--out', str(tmp_path), *FEW])
    assert capsys.readouterr().out == f'{tmp_path}/coco: 2 + 1 images, written\n'
    main(['coco', '--out', str(tmp_path), *FEW])
    assert 'there already, made with the same settings' in capsys.readouterr().out
    main(['coco', '--out', str(tmp_path), *FEW, '--overwrite'])
    assert capsys.readouterr().out.endswith('written\n')


def test_all_writes_the_three_data_sets(main, tmp_path):
    args = ['--num-train', '10', '--num-val', '10', '--size', '48', '32']
    main(['all', '--out', str(tmp_path), *args])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ade', 'coco', 'imagenet']


@pytest.mark.parametrize(
    'args, message',
    [
        (['--num-train', '0'], 'num_train must be from 1'),
        (['--size', '1', '192'], 'width must be from 32'),
        (['--seed', '-3'], 'seed must be from 0'),
        (['--out', '{tmp}/file'], 'cannot write .*/file: .*--out'),
        (['--out', '{tmp}/other', *FEW], 'holds data that are no sample data'),
        (['--out', '{tmp}/made', '--seed', '4', *FEW], 'seed 0 instead of 4.*--overwrite'),
    ],
)
def test_bad_input_ends_with_one_message(main, tmp_path, args, message):
    (tmp_path / 'file').touch()
    (tmp_path / 'other' / 'ade').mkdir(parents=True)
    (tmp_path / 'other' / 'ade' / 'precious.jpg').touch()
    main(['ade20k', '--out', str(tmp_path / 'made'), *FEW])
    before = sorted(tmp_path.rglob('*'))
    args = ['--out', str(tmp_path / 'new'), *(arg.format(tmp=tmp_path) for arg in args)]
    with pytest.raises(SystemExit, match=f'^error: .*{message}') as error:
        main(['ade20k', *args])
    assert '\n' not in error.value.code
    assert sorted(tmp_path.rglob('*')) == before


def test_bad_number_exits_without_traceback(tmp_path):
    process = start('ade20k', '--out', tmp_path / 'new', '--num-val', '0')
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == 'error: num_val must be from 1 to 1000000, but it is 0\n'


def test_terminated_run_leaves_nothing(tmp_path):
    process = start('ade20k', '--out', tmp_path, '--num-train', 100_000)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob('*.png')) and time.monotonic() < deadline:
        time.sleep(0.05)
    started = list(tmp_path.rglob('*.png'))
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert started
    assert process.returncode == 1
    assert stderr == 'error: interrupted; the unfinished data set was removed\n'
    assert not list(tmp_path.iterdir())
