"""Start weights by name: who gets them, and who has no need of them. No test has a network."""

import shutil

import pytest
from tools_runner import run_tool

from kat_mm.weights import PUBLISHED
from kat_mm.weights.files import cache_path

NAMED = """
_base_ = {base!r}

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='kat_t_in1k')))
train_cfg = dict(max_iters=7)
"""


@pytest.fixture(scope='module')
def named(tmp_path_factory, tiny_config):
    """A config that starts from published weights."""
    path = tmp_path_factory.mktemp('named') / 'named.py'
    path.write_text(NAMED.format(base=str(tiny_config)))
    return path


def test_training_without_a_network_ends_with_one_message(named, tmp_path):
    result = run_tool('train.py', named, '--work-dir', tmp_path / 'work')
    assert result.status == 1
    url = PUBLISHED['kat_t_in1k'].url
    assert result.last_line.startswith(f'error: cannot download {url}: ')
    assert f'put it here as {cache_path(url)}' in result.last_line
    assert 'Traceback' not in result.stderr and not (tmp_path / 'work').exists()


def test_resuming_and_testing_need_no_start_weights(named, trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'work')
    (tmp_path / 'work' / 'last_checkpoint').unlink()
    result = run_tool('train.py', named, '--work-dir', tmp_path / 'work', '--resume')
    assert result.status == 0, result.stderr
    checkpoint = tmp_path / 'work' / 'iter_7.pth'
    result = run_tool('test.py', named, checkpoint, '--work-dir', tmp_path / 'test')
    assert result.status == 0, result.stderr


def test_a_name_stands_for_its_file_wherever_a_checkpoint_is_asked_for(
    tiny_config, trained, tmp_path
):
    # One without a hash in its address, under which a run of this test lies.
    path = cache_path(PUBLISHED['mae_b'].url)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained / 'iter_6.pth', path)
    try:
        for arguments in (
            ('test.py', tiny_config, 'mae_b', '--work-dir', tmp_path / 'work'),
            ('convert_checkpoint.py', 'mae_b', tmp_path / 'kat.pth'),
            ('plot_rationals.py', 'mae_b', '--out', tmp_path / 'functions.png'),
        ):
            result = run_tool(*arguments)
            assert result.status == 0, result.stderr
            assert f'mae_b is {path}, SHA-256 ' in result.stdout + result.stderr
    finally:
        path.unlink()
