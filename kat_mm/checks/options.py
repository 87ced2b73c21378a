"""Numbers of a command line."""

from collections.abc import Sequence

from kat_mm.errors import UserError


def check_whole(
    option: str, given: int | Sequence[int] | None, least: int, most: int | None = None
) -> None:
    """Refuse a whole number, or one of several, that is too small or too large.

    Args:
        option: The option's name.
        given: Its value; None where it was left out.
        least: The smallest number that it may be.
        most: The largest. Default: None, any.

    Raises:
        UserError: A number is smaller or larger.
    """
    is_one = isinstance(given, int)
    numbers = [given] if is_one else given or ()
    if any(number < least or (most is not None and number > most) for number in numbers):
        span = '' if most is None else f' to {most}'
        shown, right = ' '.join(map(str, numbers)), 'a whole number' if is_one else 'whole numbers'
        raise UserError(f'{option} {shown} must be {right} from {least}{span}')
