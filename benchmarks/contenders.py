"""Contenders of a benchmark on one GPU: each alone, for its memory, and all in turns, for the time.

A contender is built by a function, and has methods: ``start`` takes the first steps of training,
behind which its optimizer's state, its CUDA graphs and its compiled parts are there; the others are
the steps that are measured.

Memory that PyTorch holds (reserves) is measured where nothing else is: PyTorch's allocator keeps a
segment of the GPU's memory while anything lies in it, and the next contender would fill the gaps
that an earlier one left, for nothing. So each contender is built, measured and let go of, and built
anew for the turns. A second time takes seconds: what was compiled is used again.
"""

import gc
from collections.abc import Callable, Iterable, Mapping

import torch
from timing import step_times
from torch import nn

from kat_mm.dense.graphs import GraphedForward

FULL = 'out of memory'


class NotRecorded(Exception):
    """Parts that were to run as CUDA graphs run without."""


def graphed_forwards(model: nn.Module) -> list[GraphedForward]:
    """Those of the parts that are to run as CUDA graphs."""
    forwards = [module.forward for module in model.modules()]
    forwards += [getattr(model, name) for name in getattr(model, 'graphed_methods', ())]
    return [forward for forward in forwards if isinstance(forward, GraphedForward)]


def require_graphs(forwards: Iterable[GraphedForward], training: bool) -> None:
    """Refuse parts that run without their graph; to be called after each step, in microseconds.

    Why they do, a warning in the log tells. In training each part is recorded in its first step. In
    evaluation a part is recorded later, and only where it is called, so what counts there is that
    none has failed.

    Raises:
        NotRecorded: With the names of the parts.
    """
    without = [
        forward.name
        for forward in forwards
        if not forward.left[training]
        or (training and not any(trains for trains, _ in forward.recordings))
    ]
    if without:
        raise NotRecorded(f'no CUDA graph of {", ".join(without)}')


def failure(action: Callable[[], object]) -> str | None:
    """Do it, and say why a contender cannot: what the error held is free behind this call."""
    try:
        action()
    except torch.OutOfMemoryError:
        return FULL
    except NotRecorded as error:
        return str(error)
    return None


def measure_alone(
    builders: Mapping[str, Callable[[], object]],
    measure: Callable[[object], dict],
    keep: Callable[[dict], None] = lambda results: None,
) -> dict[str, dict]:
    """What is measured of each contender after its start, with no other there.

    Args:
        builders: By name; nothing else may hold what they build.
        measure: Takes a contender.
        keep: Gets all results, after each contender.

    Returns:
        Results by name; of a contender that cannot run, why it was ``left_out``.
    """
    results = {}
    for name, build in builders.items():
        results[name] = {}

        def start_and_measure(name=name, build=build) -> None:
            contender = build()
            contender.start()
            results[name].update(measure(contender))

        clear()
        reason = failure(start_and_measure)
        if reason:
            leave_out({}, results, name, reason)
        keep(results)
    clear()
    return results


def build_beside(
    builders: Mapping[str, Callable[[], object]], results: dict[str, dict]
) -> dict[str, object]:
    """Contenders beside each other, started: those that are not left out, and fit."""
    contenders = {}
    for name, build in builders.items():
        if 'left_out' in results[name]:
            continue

        def start(name=name, build=build) -> None:
            contenders[name] = build()
            contenders[name].start()

        try_beside(contenders, results, name, start)
    return contenders


def try_beside(
    contenders: dict[str, object],
    results: dict[str, dict],
    name: str,
    action: Callable[[], object],
) -> None:
    """Do something with a contender beside the others, or leave it out."""
    reason = failure(action)
    if reason:
        leave_out(contenders, results, name, _beside(reason))


class _Unfit(Exception):
    """The contender of this name cannot go on."""

    def __init__(self, name: str, reason: str):
        self.name, self.reason = name, reason


def fitting_step_times(
    contenders: dict[str, object],
    results: dict[str, dict],
    step: str,
    rounds: int = 5,
    steps: int = 10,
) -> dict[str, dict]:
    """:func:`timing.step_times` of a method of contenders that share a GPU's memory.

    One whose step fails beside the others is left out, and the turns begin anew.
    """
    while True:
        functions = {name: _named(name, getattr(one, step)) for name, one in contenders.items()}
        try:
            return step_times(functions, rounds, steps)
        except _Unfit as error:
            name, reason = error.name, error.reason
        # The error is gone here, and with its traceback the steps that it held.
        del functions
        leave_out(contenders, results, name, reason)


def _named(name: str, step: Callable[[], object]) -> Callable[[], None]:
    def take() -> None:
        reason = failure(step)
        if reason:
            raise _Unfit(name, _beside(reason))

    return take


def _beside(reason: str) -> str:
    return f'{reason} beside the others'


def leave_out(
    contenders: dict[str, object], results: dict[str, dict], name: str, reason: str
) -> None:
    """Let go of a contender that cannot go on, and say why in its results.

    To be called where the error is gone, and nothing else holds the contender.
    """
    print(f'{name}: left out, {reason}')
    results[name]['left_out'] = reason
    contenders.pop(name, None)
    free()


def free() -> None:
    """Give back what PyTorch's cache alone keeps."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def clear() -> None:
    """Give back what earlier contenders left: the cache, and the workspaces of cuBLAS.

    cuBLAS keeps one for each stream and thread, and a recorded graph uses that of its stream: to be
    called where no graph is to be replayed any more.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def reserved_peak(step: Callable[[], object], before: int) -> int:
    """Bytes of the GPU's memory that PyTorch holds at most in a step of a contender that is alone.

    This is what a card has to have free for it, but for CUDA's context, with the allocator's
    settings of this process (expandable segments have smaller gaps). The peak of what is allocated
    is less: it counts neither all of the pools of CUDA graphs, nor gaps between tensors.

    Args:
        step: Of a contender that has taken its first.
        before: Bytes that were allocated before it was built. They are few: what lies between them
            counts as the contender's, so the figure is never too small.
    """
    free()
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_reserved() - before
