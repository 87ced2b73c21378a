"""How far a long check is."""

import time

from mmengine.logging import print_log


class Progress:
    """Say in the log how far a check is, every few seconds. A short one says nothing.

    Args:
        what: What is done, such as 'reading data.json'.
        interval: Seconds from one line to the next. Default: 5.
    """

    def __init__(self, what: str, interval: float = 5.0):
        self.what = what
        self.interval = interval
        self._next = time.monotonic() + interval

    def __call__(self, done: int, total: int | None = None) -> None:
        """Note that ``done`` of ``total`` are done; of a number unknown without ``total``."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.interval
        state = f'{done:,}' if total is None else f'{100 * done / total:.0f} %'
        print_log(f'Checking: {self.what}, {state}', 'current')
