"""Numbers of a command line."""

from collections.abc import Sequence

from kat_mm.errors import UserError


def check_whole(option: str, given: int | Sequence[int] | None, least: int) -> None:
    """Refuse a whole number, or one of several, that is too small.

    Args:
        option: The option's name.
        given: Its value; None where it was left out.
        least: The smallest number that it may be.

    Raises:
        UserError: A number is smaller.
    """
    is_one = isinstance(given, int)
    numbers = [given] if is_one else given or ()
    if any(number < least for number in numbers):
        shown, right = ' '.join(map(str, numbers)), 'a whole number' if is_one else 'whole numbers'
        raise UserError(f'{option} {shown} must be {right} from {least}')
