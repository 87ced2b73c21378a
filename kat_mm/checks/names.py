"""Names in messages: what a misspelt one was to be."""

import difflib
from collections.abc import Iterable


def correct(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names a misspelt one is: letters in another order, or one too many or few.

    A name that is merely alike is none: it may be somebody's own.
    """
    known = list(known)
    moved = [other for other in known if sorted(other) == sorted(name)]
    return next(iter(moved or difflib.get_close_matches(name, known, 1, 0.88)), None)
