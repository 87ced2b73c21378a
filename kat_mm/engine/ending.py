"""The end of a process among several.

A thread of gloo holds the tensors of a collective a moment longer than the call that waits for it.
Letting go of them takes Python's lock, and a thread that asks for the lock while the interpreter
is torn down aborts the process: "terminate called without an active exception", status -6. So such
a process either joins the threads before the interpreter ends, or leaves without tearing it down.
"""

import atexit
import gc
import os
import sys
from typing import NoReturn

from torch import distributed


def communicates() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_initialized()


def end_communication() -> None:
    """Join the threads of NCCL and gloo, once all that they were asked to do is done.

    NCCL's end with the call. Gloo's end with the last reference to their group, which the wrapped
    model of a run holds, in reference cycles.
    """
    if communicates():
        # Let go of here at last: a wrapped model would wait for the threads with Python's lock.
        group = distributed.group.WORLD
        distributed.destroy_process_group()
        gc.collect()
        del group


def leave(status: int) -> NoReturn:
    """End a process whose threads may wait for others that are gone, without joining them."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
