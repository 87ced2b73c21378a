from collections.abc import Iterator
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
