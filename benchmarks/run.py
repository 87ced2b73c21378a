"""Speed and memory, as ratios measured side by side in one run.

    python benchmarks/run.py ops      # the operators against a copy of the same bytes, and GELU
    python benchmarks/run.py model    # KAT against timm's ViT: training, inference, memory
    python benchmarks/run.py foundation    # DINOv3, as a ViT and as a KAT, against timm's: training
    python benchmarks/run.py cpu      # a training step of KAT-T and of its ViT twin on a CPU
    python benchmarks/run.py loading  # what a dense model waits for a batch of its workers
    python benchmarks/run.py preflight    # checks before a run, at COCO's and ImageNet's size
    python benchmarks/run.py segmentation    # a segmentor's step: mmseg's heads, our operators
    python benchmarks/run.py detection    # a detector's step: mmdet's heads against ours, graphs
    python benchmarks/run.py eomt     # EoMT against its backbone; its step with and without masks
    python benchmarks/run.py zoo      # size, latency, memory and step of each head and its ViT twin
    python benchmarks/run.py memory   # memory of a training step by batch, and what fits a card
    python benchmarks/run.py compile  # the first compiled step, KAT against timm's ViT, by stage

Each prints a table and writes results.json to benchmarks/results/; some draw plots too. What else
one takes, such as the cases to measure, its --help says: run.py ops --help. --redraw measures
nothing: plots and pages are made from results.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import compile_time
import cpu
import detection_step
import eomt
import foundation
import loading
import memory
import model
import ops
import preflight
import segmentation
import zoo
from timing import load

from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError

RESULTS = Path(__file__).parent / 'results'


def chosen(names: list[str] | None, module: ModuleType) -> list[str]:
    """Configs to measure, of those that a benchmark knows."""
    unknown = [name for name in names or () if name not in module.NAMES]
    if unknown:
        raise UserError(
            f'--configs {", ".join(unknown)}: not measured here; choose among '
            f'{", ".join(module.NAMES)}'
        )
    return list(names or module.DEFAULT)


def redraw(draw: Callable[[dict, Path], None], out_dir: Path) -> None:
    path = out_dir / 'results.json'
    if not path.exists():
        raise UserError(f'--redraw: {path} is missing; measure first, without --redraw')
    draw(load(path), out_dir)


class Benchmark(NamedTuple):
    """One command: what runs it, and the options that it takes."""

    run: Callable[[argparse.Namespace, Path], None]
    options: tuple[str, ...] = ()
    draw: Callable[[dict, Path], None] | None = None


def _of_configs(module: ModuleType) -> Callable[[argparse.Namespace, Path], None]:
    return lambda args, out: module.run(out, chosen(args.configs, module), args.quick)


BENCHMARKS = {
    'ops': Benchmark(lambda args, out: ops.run(out, args.operators), ('--operators',)),
    'model': Benchmark(
        lambda args, out: model.run(out, args.sizes, args.tasks, args.modes),
        ('--sizes', '--tasks', '--modes'),
        model.draw,
    ),
    'foundation': Benchmark(
        lambda args, out: foundation.run(out, args.sizes, args.modes, args.quick),
        ('--sizes', '--modes', '--quick'),
    ),
    'cpu': Benchmark(lambda args, out: cpu.run(out)),
    'loading': Benchmark(lambda args, out: loading.run(out, args.quick), ('--quick',)),
    'preflight': Benchmark(lambda args, out: preflight.run(out)),
    'segmentation': Benchmark(
        _of_configs(segmentation), ('--configs', '--quick'), segmentation.draw
    ),
    'detection': Benchmark(
        lambda args, out: detection_step.run(
            out, args.images, args.variants, args.quick, args.profile
        ),
        ('--images', '--variants', '--profile', '--quick'),
        detection_step.draw,
    ),
    'eomt': Benchmark(lambda args, out: eomt.run(out, args.quick), ('--quick',)),
    'zoo': Benchmark(_of_configs(zoo), ('--configs', '--quick')),
    'memory': Benchmark(_of_configs(memory), ('--configs', '--quick'), memory.write_page),
    'compile': Benchmark(lambda args, out: compile_time.run(out, args.quick), ('--quick',)),
}
OPTIONS = {
    '--sizes': dict(nargs='+', choices=model.SIZES, default=list(model.SIZES)),
    '--tasks': dict(nargs='+', choices=model.STEPS, default=list(model.STEPS)),
    '--modes': dict(nargs='+', choices=model.MODES, default=list(model.MODES)),
    '--quick': dict(action='store_true', help='small models and one turn, for a try on a CPU'),
    '--configs': dict(nargs='+', help='measure these alone'),
    '--operators': dict(
        nargs='+',
        choices=list(ops.OPERATORS),
        metavar='NAME',
        help='these alone, printed and not written',
    ),
    '--images': dict(type=int, nargs='+', default=[2, 6], help='images in a step'),
    '--variants': dict(
        nargs='+',
        choices=detection_step.VARIANTS,
        default=[name for name in detection_step.VARIANTS if 'compile' not in name],
        help='default: all but compile, which takes minutes',
    ),
    '--profile': dict(action='store_true', help="the host's time by part as well"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest='what', required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name)
        command.add_argument('--out-dir', type=Path, help=f'default: benchmarks/results/{name}')
        for option in benchmark.options:
            command.add_argument(option, **OPTIONS[option])
        if benchmark.draw:
            command.add_argument('--redraw', action='store_true', help='only the plot or page')
    args = parser.parse_args()
    benchmark, out_dir = BENCHMARKS[args.what], args.out_dir or RESULTS / args.what
    if benchmark.draw and args.redraw:
        redraw(benchmark.draw, out_dir)
    else:
        benchmark.run(args, out_dir)


if __name__ == '__main__':
    run_tool(main)
