"""Checks of arguments: a wrong one is named, with its value and what would be right."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

# Far above what models have; with more, building them would take all memory, or not end.
MOST_CHANNELS = 2**16
MOST_TOKENS = 2**20
MOST_LAYERS = 1000
MOST_FUNCTIONS = 256  # of a basis
# Powers beyond this are far from what float32 can evaluate.
MOST_DEGREE = 16


def check_int(caller: str, name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise a ValueError unless ``value`` is a whole number from ``least`` to ``most``."""
    if not _is_whole(value) or value < least or (most is not None and value > most):
        span = f'from {least} up' if most is None else f'from {least} to {most}'
        raise ValueError(f'{caller}: {name}={value!r} must be a whole number {span}')


def check_rate(caller: str, name: str, value: float, below_one: bool = False) -> None:
    """Raise a ValueError unless ``value`` is a probability, with ``below_one`` less than 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1 or (below_one and value == 1):
        span = '[0, 1)' if below_one else '[0, 1]'
        raise ValueError(f'{caller}: {name}={value!r} must lie in {span}')


def check_number(caller: str, name: str, value: float, above: float | None = None) -> None:
    """Raise a ValueError unless ``value`` is a finite number, above ``above`` if that is given."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (above is not None and value <= above):
        span = '' if above is None else f' above {above}'
        raise ValueError(f'{caller}: {name}={value!r} must be a finite number{span}')


def check_bools(caller: str, **values: bool) -> None:
    """Raise a ValueError unless each value is True or False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f'{caller}: {name}={value!r} must be True or False')


def check_choice(caller: str, name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f'did you mean {near[0]!r}? Choose' if near else 'choose'
        raise ValueError(
            f'{caller}: {name}={value!r} is unknown; {hint} one of {", ".join(choices)}'
        )


def check_pair(
    caller: str, name: str, value: Sequence[int], least: int, of: str, most: int | None = None
) -> None:
    """Raise a ValueError unless ``value`` is ``of``, two whole numbers in that range."""
    if not _is_pair(value) or not all(
        _is_whole(v) and v >= least and (most is None or v <= most) for v in value
    ):
        span = f'from {least} up' if most is None else f'from {least} to {most}'
        raise ValueError(f'{caller}: {name}={value!r} must be {of}, two whole numbers {span}')


def check_interval(caller: str, name: str, value: Sequence[float]) -> None:
    """Raise a ValueError unless ``value`` is two finite numbers that rise."""
    numbers = _is_pair(value) and all(isinstance(v, Real) and math.isfinite(v) for v in value)
    if not numbers or not value[0] < value[1]:
        raise ValueError(
            f'{caller}: {name}={value!r} must be two finite numbers that rise, such as (-3, 3)'
        )


def _is_pair(value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


def _is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
