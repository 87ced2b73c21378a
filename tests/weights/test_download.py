"""What comes from the web is whole and verified, or not there; a server on the loopback address."""

import errno
import hashlib
import io
import logging
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from web_server import serve

from kat_mm.errors import UserError
from kat_mm.weights import download, find_weights, read_weights
from kat_mm.weights.files import cache_path

WEIGHTS = {'a': torch.arange(30_000.0)}


def checkpoint_bytes(content=WEIGHTS) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


CONTENT = checkpoint_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder where downloads are kept."""
    monkeypatch.setenv('KAT_MM_WEIGHTS_DIR', str(tmp_path / 'kept'))
    return tmp_path / 'kept'


@pytest.fixture
def server():
    with serve() as server:
        yield server


def files_in(folder):
    return sorted(path.name for path in folder.rglob('*') if path.is_file())


def assert_nothing_is_kept(kept):
    assert all(name.endswith('.lock') for name in files_in(kept))


@pytest.mark.parametrize(
    'name', ['a.pth', f'a_{SHA256}.pth', f'a-{SHA256[:8]}.pth', 'a-20230101.pth']
)
def test_a_whole_file_is_kept_and_got_once(server, kept, caplog, name):
    server.files[f'/{name}'] = CONTENT
    with caplog.at_level(logging.INFO, 'kat_mm'):
        for _ in range(2):
            content = read_weights(f'{server.address}/{name}')
    assert torch.equal(content['a'], WEIGHTS['a'])
    assert server.requests == [f'/{name}']
    assert files_in(kept) == [name, f'{name}.lock']
    told = [r.getMessage() for r in caplog.records if 'SHA-256' in r.getMessage()]
    assert len(told) == 2 and all(SHA256 in text and str(kept) in text for text in told)


def test_safetensors_npz_and_older_torch_files_are_known_by_their_content(server):
    from safetensors.torch import save

    npz, old = io.BytesIO(), io.BytesIO()
    np.savez(npz, a=WEIGHTS['a'].numpy())
    torch.save(WEIGHTS, old, _use_new_zipfile_serialization=False)
    server.files.update(
        {'/a.safetensors': save(WEIGHTS), '/a.npz': npz.getvalue(), '/a.pth': old.getvalue()}
    )
    for path in server.files:
        assert torch.equal(read_weights(server.address + path)['a'], WEIGHTS['a']), path


@pytest.mark.parametrize('length', [str(len(CONTENT)), None])
@pytest.mark.parametrize('share', [0.0, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_not_kept(server, kept, length, share):
    server.files['/a.pth'] = CONTENT
    server.headers['Content-Length'] = length
    server.sent = share
    words = 'cut off' if length else 'cannot be read|is an empty file'
    with pytest.raises(UserError, match=words):
        read_weights(f'{server.address}/a.pth')
    assert_nothing_is_kept(kept)
    server.sent = 1.0
    assert read_weights(f'{server.address}/a.pth').keys() == {'a'}


@pytest.mark.parametrize('digits', [64, 8])
def test_a_file_with_another_sha256_than_its_name_tells_is_not_kept(server, kept, digits):
    name = f'a-{"ab" * (digits // 2)}.pth'
    server.files[f'/{name}'] = CONTENT
    with pytest.raises(UserError, match=f'begin with {"ab" * (digits // 2)}.*{SHA256}'):
        read_weights(f'{server.address}/{name}')
    assert_nothing_is_kept(kept)


def test_a_file_whose_sha256_is_wrong_runs_no_code(server, kept, tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / 'touched'), 'w')

    server.files['/a-abcdefab.pth'] = checkpoint_bytes({'a': Touch()})
    with pytest.raises(UserError, match='SHA-256'):
        read_weights(f'{server.address}/a-abcdefab.pth', allow_pickle=True)
    assert not (tmp_path / 'touched').exists()


@pytest.mark.parametrize(
    ('status', 'words'),
    [
        (404, 'no such file .HTTP 404'),
        (403, 'permission .HTTP 403'),
        (503, 'HTTP 503, Service Unavailable. Try again later'),
    ],
)
def test_what_the_server_answers_in_place_of_a_file_is_told(server, kept, status, words):
    server.files['/a.pth'] = CONTENT
    server.status = status
    with pytest.raises(UserError, match=words):
        read_weights(f'{server.address}/a.pth')
    assert_nothing_is_kept(kept)


@pytest.mark.parametrize('page', [b'<!DOCTYPE html><html></html>', b'\xef\xbb\xbf\n <html>'])
@pytest.mark.parametrize('name', ['a.pth', f'a_{SHA256}.pth'])
def test_an_html_page_in_place_of_a_file_is_told(server, kept, page, name):
    server.files[f'/{name}'] = page
    with pytest.raises(UserError, match='HTML page has come in place of the file'):
        read_weights(f'{server.address}/{name}')
    assert_nothing_is_kept(kept)


def test_what_cannot_be_read_is_not_kept(server, kept):
    server.files.update({'/a.pth': b'no checkpoint', '/b.pth': checkpoint_bytes({'a': print})})
    with pytest.raises(UserError, match=f'{server.address}/a.pth is text, no checkpoint'):
        read_weights(f'{server.address}/a.pth')
    with pytest.raises(UserError, match=f'{server.address}/b.pth holds more than tensors'):
        read_weights(f'{server.address}/b.pth')
    assert_nothing_is_kept(kept)
    assert read_weights(f'{server.address}/b.pth', allow_pickle=True) == {'a': print}


def test_a_refused_connection_is_told_with_what_to_do(kept):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{free.getsockname()[1]}/a.pth'
    with pytest.raises(UserError, match='connection is refused') as error:
        read_weights(url)
    for part in (url, str(cache_path(url)), 'fetch it elsewhere', 'from scratch'):
        assert part in str(error.value)


@pytest.mark.parametrize('url', ['http://', 'http://[1/a.pth', 'http://127.0.0.1:port/a.pth'])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(UserError, match='cannot download http'):
        read_weights(url)


def test_a_slow_server_is_waited_for_with_words_of_progress(server, monkeypatch, caplog):
    monkeypatch.setattr(download, 'TIMEOUT', 0.5)
    monkeypatch.setattr(download, 'PROGRESS', 0.1)
    server.files['/a.pth'] = CONTENT
    server.pause, server.pieces = 0.15, 5  # longer than the limit in all
    with caplog.at_level(logging.INFO, 'kat_mm'):
        assert read_weights(f'{server.address}/a.pth').keys() == {'a'}
    told = [r.getMessage() for r in caplog.records if 'MB/s' in r.getMessage()]
    assert len(told) >= 3 and ' of 0.1 MB' in told[0]


def test_a_server_that_stops_sending_is_given_up(server, kept, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    server.files['/a.pth'] = CONTENT
    server.pause, server.pieces = 60, 3
    with pytest.raises(UserError, match='has sent nothing for 0.2 s'):
        read_weights(f'{server.address}/a.pth')
    assert_nothing_is_kept(kept)


def test_a_server_that_does_not_answer_is_given_up(kept, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        url = f'http://127.0.0.1:{silent.getsockname()[1]}/a.pth'
        with pytest.raises(UserError, match='has sent nothing for 0.2 s'):
            read_weights(url)


def test_two_processes_download_once(server, kept):
    server.files['/a.pth'] = CONTENT
    server.pause, server.pieces = 0.1, 4
    context = multiprocessing.get_context('fork')
    url = f'{server.address}/a.pth'
    with context.Pool(2) as pool:
        found = pool.map(find_weights, [url, url], chunksize=1)
    assert found == [cache_path(url)] * 2
    assert server.requests == ['/a.pth']
    assert files_in(kept) == ['a.pth', 'a.pth.lock']


def test_what_a_killed_process_left_does_no_harm(server, kept):
    server.files['/a.pth'] = CONTENT
    url = f'{server.address}/a.pth'
    path = cache_path(url)
    path.parent.mkdir(parents=True)
    (path.parent / 'part-a.pth').write_bytes(2 * CONTENT)
    (path.parent / 'a.pth.lock').touch()
    assert read_weights(url).keys() == {'a'}
    assert files_in(kept) == ['a.pth', 'a.pth.lock']


def test_two_files_of_one_name_do_not_collide(server):
    other = {'a': torch.zeros(1)}
    server.files.update({'/one/model.pth': CONTENT, '/two/model.pth': checkpoint_bytes(other)})
    for _ in range(2):
        assert torch.equal(read_weights(f'{server.address}/one/model.pth')['a'], WEIGHTS['a'])
        assert torch.equal(read_weights(f'{server.address}/two/model.pth')['a'], other['a'])


def test_a_folder_that_cannot_be_written_is_named_with_the_variable(server, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('KAT_MM_WEIGHTS_DIR', str(tmp_path / 'file'))
    server.files['/a.pth'] = CONTENT
    with pytest.raises(UserError, match='cannot write .*file.*Set KAT_MM_WEIGHTS_DIR'):
        read_weights(f'{server.address}/a.pth')


def test_a_full_disk_is_told_and_leaves_nothing(server, kept, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    server.files['/a.pth'] = CONTENT
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='cannot write .*: No space left on device'):
        read_weights(f'{server.address}/a.pth')
    assert_nothing_is_kept(kept)
