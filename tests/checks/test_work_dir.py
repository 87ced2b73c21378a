import errno
import os
import shutil

import pytest
from torch import nn

from kat_mm import checks
from kat_mm.errors import UserError

MODEL = nn.Linear(1000, 1000, bias=False)  # 4 MB, and twice that for Adam


def test_checking_the_work_folder_leaves_nothing(tmp_path):
    checks.check_work_dir(str(tmp_path / 'a' / 'b'), MODEL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'code, why', [(errno.ENOSPC, 'the disk is full'), (errno.EROFS, 'Read-only file system')]
)
def test_a_work_folder_that_takes_no_data_is_refused(tmp_path, monkeypatch, code, why):
    def fsync(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(UserError, match=f'cannot write to the work folder .*: {why}; .*--work-dir'):
        checks.check_work_dir(str(tmp_path / 'new'), MODEL)


def test_a_disk_without_room_for_one_checkpoint_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=11_900_000))
    with pytest.raises(UserError, match='has 12 MB free, and one checkpoint takes about 12 MB'):
        checks.check_work_dir(str(tmp_path / 'new'), MODEL)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=12_000_000))
    checks.check_work_dir(str(tmp_path / 'new'), MODEL)
