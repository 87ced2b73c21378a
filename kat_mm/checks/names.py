"""Names in messages: some of many, and what a misspelt one was to be."""

import difflib
from collections.abc import Iterable


def some(names: Iterable, limit: int = 8) -> str:
    """The first few names, and how many more there are; 'none' where there is none."""
    names = [str(name) for name in names]
    more = len(names) - limit
    return (', '.join(names[:limit]) or 'none') + (f' and {more} more' if more > 0 else '')


def correct(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names a misspelt one is: letters in another order, or one too many or few.

    A name that is merely alike is none: it may be somebody's own.
    """
    known = list(known)
    moved = [other for other in known if sorted(other) == sorted(name)]
    return next(iter(moved or difflib.get_close_matches(name, known, 1, 0.88)), None)
