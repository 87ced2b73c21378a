"""Checks of arguments: a wrong one is named, with its value and what would be right."""

from numbers import Integral, Real


def check_int(caller: str, name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise a ValueError unless ``value`` is a whole number from ``least`` to ``most``."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        span = f'from {least} up' if most is None else f'from {least} to {most}'
        raise ValueError(f'{caller}: {name}={value!r} must be a whole number {span}')


def check_rate(caller: str, name: str, value: float, below_one: bool = False) -> None:
    """Raise a ValueError unless ``value`` is a probability, with ``below_one`` less than 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1 or (below_one and value == 1):
        span = '[0, 1)' if below_one else '[0, 1]'
        raise ValueError(f'{caller}: {name}={value!r} must lie in {span}')
