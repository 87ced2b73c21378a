import json

import pytest

from kat_mm.checks.json_records import read_records


def read(tmp_path, text, lists=('a', 'b')):
    path = tmp_path / 'file.json'
    path.write_text(text)
    return list(read_records(path, lists, lambda done, total: None))


@pytest.mark.parametrize('indent', [None, 1])
def test_lists_that_are_asked_for_come_item_by_item(tmp_path, indent):
    value = dict(x=[1, dict(y=2)], a=[dict(z='}],"'), [3]], b=[], c=dict(a=[4]), d=None)
    found = read(tmp_path, json.dumps(value, indent=indent))
    assert found == [
        ('x', value['x']), ('a', value['a'][0]), ('a', [3]), ('b', []), ('c', value['c']),
        ('d', None),
    ]  # fmt: skip


def test_what_is_no_object_gives_its_first_value(tmp_path):
    assert read(tmp_path, ' [{"x": 1}, 2]') == [('', dict(x=1))]
    assert read(tmp_path, '5') == [('', 5)]
    assert read(tmp_path, ' [ ]') == [('', [])]


@pytest.mark.parametrize(
    'text',
    [
        '', '{', '{"a"', '{"a":', '{"a": [', '{"a": [1', '{"a": [1,', '{"a": [1,]}', '{"a": [1 2]}',
        '{"a": [1]', '{"a": [1]} 5', '{"a": [1],}', '{"a" [1]}', '{5: 1}', '{"x": 1 "y": 2}', '[',
        '{a: 1}', '{"x": [1}',
    ],
)  # fmt: skip
def test_what_json_refuses_is_refused(tmp_path, text):
    with pytest.raises(ValueError):
        json.loads(text)
    with pytest.raises(ValueError):
        read(tmp_path, text)


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"a": [1], "a": []}', "it has 'a' twice"),  # of which others take the last
        ('[' * 99_999, 'nested too deeply'),
        ('{"a": [' + '{"x":' * 99_999, 'nested too deeply'),
    ],
)
def test_what_json_takes_otherwise_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_progress_gets_the_place_in_the_text(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(dict(a=list(range(25_000)))))
    places = []
    for _ in read_records(path, ('a',), lambda done, total: places.append((done, total))):
        pass
    size = path.stat().st_size
    assert [total for _, total in places] == [size, size]
    assert 0 < places[0][0] < places[1][0] < size
