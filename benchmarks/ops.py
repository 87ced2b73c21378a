"""Time of the operators over the floor: a copy on the device that moves the same bytes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from operators import OPERATORS, Case, coefficients, rational_case
from timing import kernel_times, machine, require_gpu, save

from kat_mm.ops import group_rational_eager as eager
from kat_mm.ops import group_rational_triton as kernels

TARGETS = {'forward': 1.15, 'backward': 1.25}
# Those that are bound by memory, which the targets are for.
WITH_TARGETS = ('group_rational', 'add_layer_norm')
GRADIENT_SHAPES = ((128, 197, 3072), (512, 197, 768))
SWEEP_ROWS = tuple(2**exponent for exponent in range(10, 19, 2))
SWEEP_CHANNELS = 768


def copy_of(num_bytes: int):
    """A copy that reads and writes ``num_bytes`` together."""
    source = torch.empty(num_bytes // 2, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(case: Case) -> dict:
    """Milliseconds of all that a case times, and of its floors, which the ratios are over."""
    floors = {f'{direction} floor': copy_of(n) for direction, n in case.floor_bytes().items()}
    times = kernel_times({**floors, **case.functions})
    ratios = {
        name: times[name]['median'] / times[name.split()[0] + ' floor']['median']
        for name in case.functions
    }
    return {**case.settings, 'floor_bytes': case.floor_bytes(), 'times': times, 'ratios': ratios}


def gradient_errors(shape: tuple[int, ...]) -> dict[str, float]:
    """Relative error of float32 coefficient gradients against float64."""
    a, b = coefficients()
    x, grad = (torch.randn(shape, device='cuda') for _ in range(2))
    _, got_a, got_b, _ = kernels.backward(grad, x, a, b)
    _, want_a, want_b, _ = eager.backward(*(t.double() for t in (grad, x, a, b)))
    return {
        name: ((got - want).norm() / want.norm()).item()
        for name, got, want in (('numerator', got_a, want_a), ('denominator', got_b, want_b))
    }


def measure_entries(names: Iterable[str]) -> dict[str, list[dict]]:
    """Measure and print all cases of some entries."""
    results = {}
    print(f'{"":44} {"ms":>8} {"ratio":>6} {"target":>6}')
    for name in names:
        results[name] = []
        for case in OPERATORS[name](False):
            result = measure(case)
            results[name].append(result)
            print_case(name, case, result)
        torch.cuda.empty_cache()
    return results


def run(out_dir: Path, names: Sequence[str] | None = None) -> None:
    """Measure, print and write results.json and the plot; of some entries, measure and print."""
    require_gpu()
    if names:
        measure_entries(names)
        return
    results = {'machine': machine(), 'unit': 'ms', 'targets': TARGETS}
    results |= measure_entries(OPERATORS)
    results['coefficient_gradient_errors'] = [
        {'shape': shape, **gradient_errors(shape)} for shape in GRADIENT_SHAPES
    ]
    for errors in results['coefficient_gradient_errors']:
        print(errors)
    results['sweep'] = [
        {'rows': rows, **measure(rational_case((rows, SWEEP_CHANNELS), torch.bfloat16))}
        for rows in SWEEP_ROWS
    ]
    save(results, out_dir / 'results.json')
    plot(results, out_dir / 'time.png')


def print_case(name: str, case: Case, result: dict) -> None:
    print(name, case.settings)
    for what, ratio in result['ratios'].items():
        target = TARGETS.get(what, '') if name in WITH_TARGETS else ''
        print(f'    {what:40} {result["times"][what]["median"]:8.4f} {ratio:6.3f} {target:>6}')


def plot(results: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    sizes = [case['rows'] * SWEEP_CHANNELS for case in results['sweep']]
    styles = {'floor': ('0.6', '--'), 'GELU': ('tab:orange', '-'), '': ('tab:blue', '-')}
    for axis, direction in zip(axes, ('forward', 'backward'), strict=True):
        for suffix, (color, line) in styles.items():
            name = f'{direction} {suffix}'.strip()
            medians = [case['times'][name]['median'] for case in results['sweep']]
            label = {'floor': 'copy of the same bytes', '': 'group_rational'}.get(suffix, suffix)
            axis.loglog(sizes, medians, line, color=color, marker='.', label=label)
        axis.set(title=direction, xlabel=f'elements (bfloat16, C = {SWEEP_CHANNELS})')
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('ms')
    axes[0].legend(frameon=False)
    figure.suptitle(results['machine']['device'], fontsize=9)
    figure.savefig(path, dpi=150)
    print(f'plot: {path}')
