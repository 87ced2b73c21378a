"""What the benchmarks share: the clock, the description of the machine, results as files.

Results are called the same everywhere: ``machine``, ``settings`` and ``targets`` beside what was
measured; of a step or a kernel ``ms`` (median, min and max), ``gpu_ms``, what the GPU works in it,
``images_per_second``, and in MB of 10^6 bytes ``allocated_mb``, what its tensors take at most, and
``reserved_mb``, what PyTorch holds at most, where there are several behind what is done, such as
``train_ms``; ``left_out``, why a model was not measured further; of operators ``times``, ``ratios``
to their floors and ``floor_bytes``; of finished runs ``runs`` by title, with ``iterations``, the
scores by the names of their log, ``train_images_per_second``, ``train_memory_mb``, which is what
mmengine logs, and curves, ``SCORE_curve``. :func:`load` reads results that were written under
earlier names.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kat_mm.errors import UserError

# What figures were called in results of earlier versions.
RENAMED = {
    'mb': 'allocated_mb',
    'train_mb': 'train_allocated_mb',
    'backbone_mb': 'backbone_allocated_mb',
    'inference_mb': 'inference_allocated_mb',
    'validation_mb': 'validation_allocated_mb',
    'memory_mb': 'train_reserved_mb',
    'memory_gib': 'allocated_mb',
}
MB, GIB = 10**6, 2**30


def require_gpu() -> None:
    if not torch.cuda.is_available():
        raise UserError(
            'this benchmark needs a CUDA GPU; torch.cuda.is_available() says there is none'
        )


def machine() -> dict:
    """Hardware and versions, for a results file."""
    cuda = torch.cuda.is_available()
    return {
        'date': datetime.date.today().isoformat(),
        'device': torch.cuda.get_device_name() if cuda else processor(),
        'cores': os.cpu_count(),
        'python': platform.python_version(),
        'cuda': torch.version.cuda if cuda else None,
        **{name: version(name) for name in ('torch', 'triton', 'timm')},
    }


def processor() -> str:
    info = Path('/proc/cpuinfo')  # Linux
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def spread(samples: list[float]) -> dict:
    """Median, least and greatest of some samples."""
    return {'median': statistics.median(samples), 'min': min(samples), 'max': max(samples)}


def in_words(times: dict) -> str:
    """A :func:`spread` of milliseconds."""
    return f'{times["median"]:.1f} ms ({times["min"]:.1f} to {times["max"]:.1f})'


def kernel_times(functions: dict[str, Callable], rounds: int = 5) -> dict[str, dict]:
    """Milliseconds of GPU functions, in turns, with a cold cache before each call."""
    from triton.testing import do_bench

    samples = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            samples[name].append(do_bench(function, warmup=5, rep=20, return_mode='median'))
    return {name: spread(values) for name, values in samples.items()}


def step_times(functions: dict[str, Callable], rounds: int = 5, steps: int = 10) -> dict[str, dict]:
    """Milliseconds of a step, host included, in turns of ``steps`` calls in a row."""
    samples = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(3):
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


def allocated() -> int:
    """Bytes that tensors on the GPU take."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def allocated_mb(step: Callable[[], object], held: int) -> float | None:
    """MB that tensors take at most in a step, but for ``held`` bytes; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return round((torch.cuda.max_memory_allocated() - held) / MB, 1)


def kernel_profile(step: Callable, on_gpu: bool = True) -> dict[str, float]:
    """Milliseconds of a step in each kernel, by name; on a CPU, in each operator.

    Their sum is what the GPU works, whether or not the host keeps up with it.
    """
    activity, steps = torch.profiler.ProfilerActivity, 3
    synchronize()
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profiler:
        for _ in range(steps):
            step()
        synchronize()
    return {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        / (1e3 * steps)
        for event in profiler.key_averages()
    }


def gpu_ms(step: Callable[[], object]) -> float:
    """Milliseconds of the GPU's work in a step; on a CPU, of operators."""
    return round(sum(kernel_profile(step, torch.cuda.is_available()).values()), 3)


def load(path: Path) -> dict:
    """Results of a file, also of earlier versions: under the names of today."""
    return _renamed(json.loads(path.read_text()))


def _renamed(results):
    if isinstance(results, list):
        return [_renamed(value) for value in results]
    if not isinstance(results, dict):
        return results
    return {
        RENAMED.get(key, key): _in_mb(value) if key == 'memory_gib' else _renamed(value)
        for key, value in results.items()
    }


def _in_mb(gib):
    """Of a figure in GiB, or of several by name."""
    if isinstance(gib, dict):
        return {name: _in_mb(value) for name, value in gib.items()}
    return None if gib is None else round(gib * GIB / MB, 1)


def save(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + '\n')
    print(f'results: {path}')
