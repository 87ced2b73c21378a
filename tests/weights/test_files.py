"""Names, addresses and files, and where what is downloaded is kept."""

import re
from pathlib import Path

import pytest
import torch

from kat_mm.errors import UserError
from kat_mm.weights import PUBLISHED, cache_dir, find_weights, read_weights
from kat_mm.weights.download import expected_sha256
from kat_mm.weights.files import cache_path


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv('KAT_MM_WEIGHTS_DIR', str(tmp_path / 'kept'))
    return tmp_path / 'kept'


def put(url: str) -> Path:
    path = cache_path(url)
    path.parent.mkdir(parents=True)
    torch.save({'a': torch.ones(1)}, path)
    return path


def test_a_file_that_was_put_there_by_hand_is_found_by_its_name():
    path = put(PUBLISHED['mae_b'].url)
    assert find_weights('mae_b') == path
    assert read_weights('mae_b') == {'a': torch.ones(1)}


def test_a_file_that_is_kept_and_is_another_is_refused():
    path = put(PUBLISHED['kat_s_in1k'].url)
    with pytest.raises(UserError, match=f'{path} is not what .*Delete it'):
        find_weights('kat_s_in1k')


def test_behind_no_network_one_message_tells_what_to_fetch_and_where_to_put_it():
    with pytest.raises(UserError, match='cannot download') as error:
        find_weights('kat_s_in1k')
    url = PUBLISHED['kat_s_in1k'].url
    for part in (url, str(cache_path(url)), 'None as the checkpoint of init_cfg', 'from scratch'):
        assert part in str(error.value)


def test_files_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'a': torch.ones(1)}, 'mine')
    assert read_weights('mine') == read_weights(tmp_path / 'mine') == {'a': torch.ones(1)}
    with pytest.raises(UserError, match='checkpoint folder/missing does not exist'):
        read_weights('folder/missing')
    with pytest.raises(UserError, match='checkpoint missing.pth does not exist'):
        read_weights('missing.pth')


@pytest.mark.parametrize('address', ['ftp://host/a.pth', 's3://bucket/a.pth', 'file:///tmp/a.pth'])
def test_an_address_of_another_kind_is_refused_as_such(address):
    with pytest.raises(UserError, match=f'{address} is an address of .* http or https'):
        find_weights(address)


def test_a_name_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(UserError, match='did you mean kat_s_in1k. Names are kat_t_in1k, '):
        find_weights('kat_s_in')


def test_dinov3_is_refused_with_how_to_get_it():
    with pytest.raises(UserError, match='dinov3_s cannot be downloaded.*licence.*huggingface'):
        find_weights('dinov3_s')


def test_the_cache_is_where_its_variable_or_those_of_torch_say(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / 'kept'
    monkeypatch.delenv('KAT_MM_WEIGHTS_DIR')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    assert cache_dir() == tmp_path / 'torch' / 'hub' / 'kat_mm'


def test_addresses_of_one_file_name_have_places_of_their_own():
    urls = [f'https://{host}/model.safetensors' for host in 'ab']
    urls.append(f'{urls[0]}?revision=2')
    paths = [cache_path(url) for url in urls]
    assert {path.name for path in paths} == {'model.safetensors'}
    assert len(set(paths)) == 3


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_weights_have_an_address_a_source_and_a_licence(name):
    published = PUBLISHED[name]
    assert published.url.startswith('https://') and published.source.startswith('https://')
    assert published.licence in ('MIT', 'Apache-2.0', 'CC-BY-NC-4.0')
    assert cache_path(published.url).suffix in ('.pth', '.npz')
    # KAT's and DeiT's file names have digits of their SHA-256.
    digits = {'kat': 64, 'deit': 8}.get(name.partition('_')[0], 0)
    assert len(expected_sha256(published.url)) == digits
    size = {'t': 'ti', 's': 's', 'b': 'b'}[re.search(r'_([tsb])(_|$)', name)[1]]
    file = published.url.rpartition('/')[2]
    assert re.search(rf'(^|_|vit){size}', file, re.IGNORECASE)
    assert len({other.url for other in PUBLISHED.values()}) == len(PUBLISHED)


@pytest.mark.parametrize('end', ['..', '.', '../', '..?file=x.pth'])
def test_an_address_that_leads_out_of_the_cache_is_refused(end):
    with pytest.raises(UserError, match='is an address of a folder; it is to be one of a file'):
        find_weights(f'http://127.0.0.1:9/{end}')
