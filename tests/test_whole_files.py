import multiprocessing
import os
import time

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


def write_slowly(path, letter, both_are_there):
    for _ in range(20):
        with write_whole(path) as temporary, open(temporary, 'w') as file:
            both_are_there.wait(30)
            for _ in range(50):
                file.write(letter * 1000)
                file.flush()
            both_are_there.wait(30)


def test_two_processes_that_write_one_file_at_once_leave_a_whole_one(tmp_path):
    context = multiprocessing.get_context('fork')
    path, both_are_there = tmp_path / 'a.json', context.Barrier(2)
    writers = [
        context.Process(target=write_slowly, args=(path, letter, both_are_there)) for letter in 'xy'
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert path.read_text() in ('x' * 50_000, 'y' * 50_000)
    assert os.listdir(tmp_path) == ['a.json']


def test_what_a_killed_process_left_goes_once_it_is_old(tmp_path):
    path = tmp_path / 'a[1].json'
    old, new, other = (
        tmp_path / f'.{name}.tmp.json' for name in ('a[1].0123abcd', 'a[1].4567abcd', 'b.0123abcd')
    )
    for left_over in (old, new, other):
        left_over.touch()
    for left_over in (old, other):
        os.utime(left_over, (time.time() - 4000,) * 2)
    with write_whole(path) as temporary:
        temporary.write_text('whole')
    assert sorted(os.listdir(tmp_path)) == sorted([new.name, other.name, path.name])
