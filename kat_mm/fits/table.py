"""Coefficients with which a group-rational function starts as a known activation function.

A fit is ``F(x) = P(x) / Q(x)`` with ``P(x) = a0 + a1 x + ... + am x^m`` and
``Q(x) = 1 + |b1||x| + ... + |bn||x|^n``, the function of KAT (Yang and Wang, "Kolmogorov-Arnold
Transformer", 2024), in the form in which it is evaluated. (The published gelu, geglu and swishglu
were fitted with another Q and are wrong in this one.)

``coefficients.json`` holds one minimax fit of order (5, 4) per function, written by
``python tools/fit_rational.py --all``. Their intervals:

- [-8, 8], about as far as the pre-activations of trained vision transformers reach. A fit on
  [-3, 3] is closer there, but soon drifts away outside (relu by 1.5 at x = 8).
- swish on [-3, 3], as published. This is the start of every KAT, and it stays usable further out
  (off by 0.05 at x = 8), whereas its fit on [-8, 8] is 1000 times coarser inside [-3, 3]. That one
  is silu: the same function, for the gates of models that were trained with it.

Outside of its interval a fit of order (5, 4) with b4 > 0 tends to the line ``(a5 / b4) x``, on both
sides: it stays bounded by a line, but it is no longer the function.
"""

import difflib
import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

TABLE_FILE = Path(__file__).with_name('coefficients.json')


@dataclass(frozen=True)
class RationalFit:
    """A rational function ``P(x) / Q(x)`` that was fitted to a function of one variable.

    Attributes:
        name: Name of the fitted function.
        numerator: ``(a0, ..., am)``.
        denominator: ``(b1, ..., bn)``, none negative. The constant 1 of Q is not stored.
        interval: ``(lo, hi)``, where it was fitted.
        max_error: Largest ``|F(x) - function(x)|`` in the interval, in float64.
    """

    name: str
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    interval: tuple[float, float]
    max_error: float

    @property
    def order(self) -> tuple[int, int]:
        """Degrees ``(m, n)`` of P and Q."""
        return len(self.numerator) - 1, len(self.denominator)

    def to_dict(self) -> dict:
        """The fit as plain data, for JSON."""
        return {**asdict(self), 'order': self.order}


def get_fit(name: str) -> RationalFit:
    """Return the packaged fit of a function.

    Raises:
        ValueError: If there is no fit of this name.
    """
    table = _load_table()
    if name not in table:
        raise ValueError(unknown_name('name', name, table))
    return table[name]


def available_fits() -> tuple[str, ...]:
    """Return the names that :func:`get_fit` knows."""
    return tuple(_load_table())


@functools.cache
def _load_table() -> dict[str, RationalFit]:
    table = json.loads(TABLE_FILE.read_text(encoding='utf-8'))
    return {
        entry['name']: RationalFit(
            name=entry['name'],
            numerator=tuple(entry['numerator']),
            denominator=tuple(entry['denominator']),
            interval=tuple(entry['interval']),
            max_error=entry['max_error'],
        )
        for entry in table
    }


def unknown_name(argument: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not among those that are known."""
    nearest = difflib.get_close_matches(str(name), known, n=1)
    hint = f'; did you mean {nearest[0]!r}?' if nearest else '.'
    return f'{argument}={name!r} is unknown{hint} Known names: {", ".join(known)}'
