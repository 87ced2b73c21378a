"""Speed and memory, as ratios measured side by side in one run.

    python benchmarks/run.py ops      # the operators against a copy of the same bytes, and GELU
    python benchmarks/run.py model    # KAT against timm's ViT: training, inference, memory
    python benchmarks/run.py foundation    # DINOv3, as a ViT and as a KAT, against timm's: training
    python benchmarks/run.py cpu      # a training step of KAT-T and of its ViT twin on a CPU
    python benchmarks/run.py preflight    # checks before a run, at COCO's and ImageNet's size
    python benchmarks/run.py segmentation    # a segmentor's step: mmseg's heads, our operators
    python benchmarks/run.py detection    # a detector's step: mmdet's heads against ours, graphs
    python benchmarks/run.py eomt     # EoMT against its backbone; its step with and without masks
    python benchmarks/run.py zoo      # size, latency, memory and step of each head and its ViT twin

    python benchmarks/run.py memory   # memory of a training step by batch, and what fits a card
    python benchmarks/run.py compile  # the first compiled step, KAT against timm's ViT, by stage

Each prints a table and writes results.json to benchmarks/results/; some draw plots too. --sizes,
--tasks and --modes choose among the cases of model and foundation, --configs among those of
segmentation and memory. ops --operators measures some alone, and writes nothing. --redraw measures
nothing: plots and pages are made from results.json.
"""

import argparse
from pathlib import Path
from types import ModuleType

import compile_time
import cpu
import detection_step
import eomt
import foundation
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
REDRAWN = {
    'model': model.draw,
    'segmentation': segmentation.draw,
    'detection': detection_step.draw,
    'memory': memory.write_page,
}


def chosen(names: list[str] | None, module: ModuleType) -> list[str]:
    """Configs to measure, of those that a benchmark knows."""
    unknown = [name for name in names or () if name not in module.NAMES]
    if unknown:
        raise UserError(
            f'--configs {", ".join(unknown)}: not measured here; choose among '
            f'{", ".join(module.NAMES)}'
        )
    return list(names or module.DEFAULT)


def redraw(what: str, out_dir: Path) -> None:
    path = out_dir / 'results.json'
    if what not in REDRAWN:
        raise UserError(f'--redraw: {what} has none; {", ".join(REDRAWN)} have')
    if not path.exists():
        raise UserError(f'--redraw: {path} is missing; measure first, without --redraw')
    REDRAWN[what](load(path), out_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'what',
        choices=(
            'ops',
            'model',
            'foundation',
            'cpu',
            'preflight',
            'segmentation',
            'detection',
            'eomt',
            'zoo',
            'memory',
            'compile',
        ),
    )
    parser.add_argument('--out-dir', type=Path, help='default: benchmarks/results/WHAT')
    parser.add_argument('--sizes', nargs='+', choices=model.SIZES, default=list(model.SIZES))
    parser.add_argument('--tasks', nargs='+', choices=model.STEPS, default=list(model.STEPS))
    parser.add_argument('--modes', nargs='+', choices=model.MODES, default=list(model.MODES))
    parser.add_argument(
        '--quick', action='store_true', help='a small model and one turn, for a try on a CPU'
    )
    parser.add_argument('--configs', nargs='+', help='of segmentation and memory')
    parser.add_argument(
        '--operators',
        nargs='+',
        choices=list(ops.OPERATORS),
        metavar='NAME',
        help='of ops: these alone, printed and not written',
    )
    parser.add_argument(
        '--redraw', action='store_true', help=f'only plots and pages: {", ".join(REDRAWN)}'
    )
    detection_step.add_arguments(parser)
    args = parser.parse_args()
    out_dir = args.out_dir or RESULTS / args.what
    if args.redraw:
        redraw(args.what, out_dir)
    elif args.what == 'ops':
        ops.run(out_dir, args.operators)
    elif args.what == 'foundation':
        foundation.run(out_dir, args.sizes, args.modes, args.quick)
    elif args.what in ('cpu', 'preflight'):
        {'cpu': cpu, 'preflight': preflight}[args.what].run(out_dir)
    elif args.what in ('eomt', 'zoo', 'compile'):
        module = {'eomt': eomt, 'zoo': zoo, 'compile': compile_time}[args.what]
        module.run(out_dir, args.quick)
    elif args.what in ('segmentation', 'memory'):
        module = {'segmentation': segmentation, 'memory': memory}[args.what]
        module.run(out_dir, chosen(args.configs, module), args.quick)
    elif args.what == 'detection':
        detection_step.run(out_dir, args.images, args.variants, args.quick, args.profile)
    else:
        model.run(out_dir, args.sizes, args.tasks, args.modes)


if __name__ == '__main__':
    run_tool(main)
