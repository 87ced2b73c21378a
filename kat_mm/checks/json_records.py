"""Large JSON files, record by record, in the memory of their text."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from kat_mm.datasets.text_files import read_text

_SPACE = re.compile(r'[ \t\n\r]*')
_SEPARATOR = re.compile(r'[ \t\n\r]*([,\]}])[ \t\n\r]*')
_STEP = 10_000  # records from one call of progress to the next


def read_records(
    path: str | Path, lists: tuple[str, ...], progress: Callable[[int, int], None]
) -> Iterator[tuple[str, object]]:
    """Read a JSON object, and the lists in it that are named item by item.

    Args:
        path: The file.
        lists: Keys of lists whose items are wanted one by one.
        progress: Gets the characters read and their number, now and then.

    Yields:
        The object's keys and values; for one of ``lists`` the key with each item, or with [] where
        there is none. A file that holds no object gives the key '' and its first value.

    Raises:
        ValueError: It is no JSON, or has one of ``lists`` twice, of which readers take the last.
        UserError: It cannot be read, or is not in UTF-8.
    """
    try:
        yield from _read(read_text(path), lists, progress)
    except RecursionError:
        raise ValueError('its lists or objects are nested too deeply') from None


def _read(
    text: str, lists: tuple[str, ...], progress: Callable[[int, int], None]
) -> Iterator[tuple[str, object]]:
    scan = json.JSONDecoder().raw_decode
    at = _skip(text, 0)
    if text[at : at + 1] == '[':  # the first item tells what it is
        at = _skip(text, at + 1)
        yield '', scan(text, at)[0] if text[at : at + 1] != ']' else []
        return
    if text[at : at + 1] != '{':
        yield '', json.loads(text)
        return
    at = _skip(text, at + 1)
    seen = set()
    while text[at : at + 1] != '}':
        key, at = scan(text, at)
        if not isinstance(key, str):
            raise json.JSONDecodeError('Expecting property name', text, at)
        if key in seen:
            raise ValueError(f'it has {key!r} twice')
        seen.update({key}.intersection(lists))
        at = _skip(text, _expect(text, at, ':'))
        if key in lists and text[at : at + 1] == '[':
            at = _skip(text, at + 1)
            number = 0
            if text[at : at + 1] == ']':
                yield key, []
            while text[at : at + 1] != ']':
                value, at = scan(text, at)
                yield key, value
                number += 1
                if number % _STEP == 0:
                    progress(at, len(text))
                at = _next(text, at, ']')
            at += 1
        else:
            value, at = scan(text, at)
            yield key, value
        at = _next(text, at, '}')
    if _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError('Extra data', text, at + 1)


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _expect(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f'Expecting {sign!r}', text, at)
    return at + 1


def _next(text: str, at: int, end: str) -> int:
    """The place of the next item, or of the end."""
    found = _SEPARATOR.match(text, at)
    if found and found[1] == end:
        return found.start(1)
    at = found.end() if found else at
    if not found or found[1] != ',' or text[at : at + 1] == end:
        raise json.JSONDecodeError("Expecting ',' and a value", text, at)
    return at
