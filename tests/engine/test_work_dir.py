import os
import subprocess
import sys

import pytest
import torch

from kat_mm.engine.work_dir import claim_work_dir, latest_checkpoint
from kat_mm.errors import UserError


def save(path):
    torch.save(dict(weight=torch.zeros(100)), path)


def test_without_a_checkpoint_there_is_none_to_go_on_from(tmp_path):
    assert latest_checkpoint(str(tmp_path / 'nowhere')) is None
    (tmp_path / 'last_checkpoint').write_text('/gone/iter_4.pth')
    assert latest_checkpoint(str(tmp_path)) is None


def test_the_checkpoint_that_the_folder_names_goes_first_wherever_it_was(tmp_path):
    for step in (2, 4, 10):
        save(tmp_path / f'iter_{step}.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_4.pth')
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_4.pth')


@pytest.mark.parametrize('damage', ['removed', 'cut', 'empty', 'a changed byte'])
def test_otherwise_it_is_the_newest_whole_one_by_number(damage, tmp_path):
    for name in ('epoch_2.pth', 'epoch_9.pth', 'epoch_10.pth', 'best_miou_epoch_11.pth'):
        save(tmp_path / name)
    newest = tmp_path / 'epoch_10.pth'
    (tmp_path / 'last_checkpoint').write_text(str(newest))
    content = newest.read_bytes()
    if damage == 'removed':
        newest.unlink()
    elif damage == 'cut':
        newest.write_bytes(content[:-20])
    elif damage == 'empty':
        newest.write_bytes(b'')
    else:
        at = content.index(bytes(400))  # the weights
        newest.write_bytes(content[:at] + b'\1' + content[at + 1 :])
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_9.pth')


def test_checkpoints_of_another_folder_are_found_there(tmp_path):
    (tmp_path / 'out/run').mkdir(parents=True)
    save(tmp_path / 'out/run/iter_2.pth')
    latest = latest_checkpoint(str(tmp_path / 'run'), str(tmp_path / 'out'))
    assert latest == str(tmp_path / 'out/run/iter_2.pth')


CLAIM = """
import sys
from kat_mm.engine.work_dir import claim_work_dir
claim_work_dir(sys.argv[1], resume=True)
print('claimed', flush=True)
sys.stdin.read()
"""


def test_a_folder_is_one_runs_until_its_process_is_gone(tmp_path):
    command = [sys.executable, '-c', CLAIM, str(tmp_path)]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b'claimed\n'
    with pytest.raises(UserError, match=f'another run is at work in .*process {owner.pid} on'):
        claim_work_dir(str(tmp_path), resume=True)
    owner.kill()
    owner.wait()
    claim_work_dir(str(tmp_path), resume=True)


def test_a_folder_with_anothers_checkpoints_is_for_resuming_alone(tmp_path):
    save(tmp_path / 'iter_2.pth')
    with pytest.raises(UserError, match='holds iter_2.pth of another run.*--resume.*--work-dir'):
        claim_work_dir(str(tmp_path), resume=False)
    claim_work_dir(str(tmp_path), resume=True)


def test_a_lock_that_leads_elsewhere_is_not_written(tmp_path):
    """A folder from somebody else may hold a link in its place, or a pipe."""
    folder, other = tmp_path / 'run', tmp_path / 'precious'
    folder.mkdir()
    other.write_text('precious')
    for make in (lambda path: path.symlink_to(other), os.mkfifo, os.mkdir):
        make(folder / '.lock')
        with pytest.raises(UserError, match=r'\.lock is no file, but what a run locks; remove it'):
            claim_work_dir(str(folder), resume=True)
        (folder / '.lock').rmdir() if (folder / '.lock').is_dir() else (folder / '.lock').unlink()
    assert other.read_text() == 'precious'
    (folder / '.lock').write_bytes(b'\xff\xfe')
    claim_work_dir(str(folder), resume=True)
