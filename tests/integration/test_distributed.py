import json

import pytest
from tools_runner import read_losses, read_scalars, run_script, run_tool

# Without drop path and dropout, whose random numbers are each process's own.
EXACT = """
_base_ = {base!r}
head = dict(dropout_ratio=0.0)
model = dict(backbone=dict(drop_path_rate=0.0), decode_head=head, auxiliary_head=head)
"""


@pytest.fixture(scope='module')
def config(tiny_config, tmp_path_factory):
    path = tmp_path_factory.mktemp('distributed') / 'exact.py'
    path.write_text(EXACT.format(base=str(tiny_config)))
    return path


@pytest.fixture(scope='module')
def alone(config, tmp_path_factory):
    """Work folder of 1 process with batch size 4."""
    work_dir = tmp_path_factory.mktemp('alone')
    result = run_tool('train.py', config, '--work-dir', work_dir)
    assert result.status == 0, result.stderr
    return work_dir


@pytest.fixture(scope='module')
def together(config, tmp_path_factory):
    """Work folder of 2 processes with batch size 2."""
    work_dir = tmp_path_factory.mktemp('together')
    batch = ['--cfg-options', 'train_dataloader.batch_size=2']
    result = run_script('dist_train.sh', config, 2, '--work-dir', work_dir, *batch)
    assert result.returncode == 0, result.stderr
    return work_dir


def test_two_processes_have_the_losses_of_one_with_the_same_total_batch(alone, together):
    expected, found = read_losses(alone), read_losses(together)
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    # The first step is that of the same weights, before rounding errors grow.
    assert found[1] == pytest.approx(expected[1], rel=1e-6)


def test_two_processes_validate_as_one(alone, together):
    (expected,) = [line['mIoU'] for line in read_scalars(alone) if 'mIoU' in line]
    (found,) = [line['mIoU'] for line in read_scalars(together) if 'mIoU' in line]
    assert found == pytest.approx(expected, abs=0.5)


def test_two_processes_test_with_the_miou_of_one(config, alone, tmp_path):
    # 5 images: the second process gets one twice, which must not count.
    checkpoint = alone / 'iter_6.pth'
    result = run_script('dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.glob('*/*.json')
    (expected,) = [line['mIoU'] for line in read_scalars(alone) if 'mIoU' in line]
    assert json.loads(file.read_text())['mIoU'] == expected


def test_a_mistake_ends_both_processes_with_the_message(config, tmp_path):
    options = ['--cfg-options', 'train_dataloader.dataset.data_root=/nowhere']
    result = run_script('dist_train.sh', config, 2, '--work-dir', tmp_path / 'work', *options)
    assert result.returncode == 1
    assert 'error: data folder /nowhere/images/training does not exist' in result.stderr
    assert not list(tmp_path.iterdir())
