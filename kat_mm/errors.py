from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake in a config, a command line or the data, with a message that says how to mend it.

    The command-line tools print its message alone; every other exception keeps its traceback.
    """


@contextmanager
def config_errors(part: str = 'the config') -> Iterator[None]:
    """What fails while things are built from a config, or ``part`` of it, is a mistake there."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AssertionError, FileNotFoundError) as error:
        raise UserError(f'{part} cannot be built: {type(error).__name__}: {error}') from error


def some(names: Iterable, limit: int = 8, separator: str = ', ') -> str:
    """The first few names, and how many more there are; 'none' where there is none."""
    names = [str(name) for name in names]
    more = len(names) - limit
    return (separator.join(names[:limit]) or 'none') + (f' and {more} more' if more > 0 else '')
