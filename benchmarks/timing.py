"""What the benchmarks share: the clock, the description of the machine, results as files."""

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kat_mm.errors import UserError


def require_gpu() -> None:
    if not torch.cuda.is_available():
        raise UserError(
            'this benchmark needs a CUDA GPU; torch.cuda.is_available() says there is none'
        )


def machine() -> dict:
    """Hardware and versions, for a results file."""
    import timm
    import triton

    return {
        'date': datetime.date.today().isoformat(),
        'gpu': torch.cuda.get_device_name(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'cuda': torch.version.cuda,
        'triton': triton.__version__,
        'timm': timm.__version__,
    }


def spread(samples: list[float]) -> dict:
    """Median, least and greatest of some samples."""
    return {'median': statistics.median(samples), 'min': min(samples), 'max': max(samples)}


def kernel_times(functions: dict[str, Callable], rounds: int = 5) -> dict[str, dict]:
    """Milliseconds of GPU functions, in turns, with a cold cache before each call."""
    from triton.testing import do_bench

    samples = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            samples[name].append(do_bench(function, warmup=5, rep=20, return_mode='median'))
    return {name: spread(values) for name, values in samples.items()}


def step_times(
    functions: dict[str, Callable], rounds: int = 5, steps: int = 10, warmup: int = 3
) -> dict[str, dict]:
    """Milliseconds of a step, host included, in turns of ``steps`` calls in a row."""
    samples = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(warmup):
            function()
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                function()
            synchronize()
            samples[name].append(1000 * (time.perf_counter() - start) / steps)
    return {name: spread(values) for name, values in samples.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def kernel_profile(step: Callable, on_gpu: bool = True) -> dict[str, float]:
    """Milliseconds of one step in each kernel, by name; on a CPU, in each operator.

    Their sum is what the GPU works, whether or not the host keeps up with it.
    """
    activity = torch.profiler.ProfilerActivity
    synchronize()
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profiler:
        step()
        synchronize()
    return {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3
        for event in profiler.key_averages()
    }


def save(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + '\n')
    print(f'results: {path}')
