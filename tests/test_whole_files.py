import os

import pytest

from kat_mm.whole_files import write_whole


def test_a_file_takes_the_place_of_the_one_before_it(tmp_path):
    path = tmp_path / 'new' / 'a.json'
    for text in ('first', 'second'):
        with write_whole(path) as temporary:
            temporary.write_text(text)
            assert temporary.suffix == '.json' and temporary.parent == path.parent
        assert path.read_text() == text
    assert os.listdir(path.parent) == ['a.json']


def test_what_was_there_stays_where_writing_fails(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with pytest.raises(OSError, match='full'), write_whole(path) as temporary:
        temporary.write_text('ne')
        raise OSError('full')
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['a.json']
