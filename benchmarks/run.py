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

Each prints a table and writes results.json to benchmarks/results/; ops and model draw a plot too.
--sizes, --tasks and --modes choose among the cases of model and foundation.
"""

import argparse
from pathlib import Path

import cpu
import detection_step
import eomt
import foundation
import model
import ops
import preflight
import segmentation
import zoo

from kat_mm.engine.launch import run_tool

RESULTS = Path(__file__).parent / 'results'


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
        ),
    )
    parser.add_argument('--out-dir', type=Path, help='default: benchmarks/results/WHAT')
    parser.add_argument('--sizes', nargs='+', choices=model.SIZES, default=list(model.SIZES))
    parser.add_argument('--tasks', nargs='+', choices=model.STEPS, default=list(model.STEPS))
    parser.add_argument('--modes', nargs='+', choices=model.MODES, default=list(model.MODES))
    parser.add_argument(
        '--quick', action='store_true', help='a small model and one turn, for a try on a CPU'
    )
    detection_step.add_arguments(parser)
    args = parser.parse_args()
    out_dir = args.out_dir or RESULTS / args.what
    if args.what == 'ops':
        ops.run(out_dir)
    elif args.what == 'foundation':
        foundation.run(out_dir, args.sizes, args.modes, args.quick)
    elif args.what in ('cpu', 'preflight'):
        {'cpu': cpu, 'preflight': preflight}[args.what].run(out_dir)
    elif args.what in ('segmentation', 'eomt', 'zoo'):
        module = {'segmentation': segmentation, 'eomt': eomt, 'zoo': zoo}[args.what]
        module.run(out_dir, args.quick)
    elif args.what == 'detection':
        detection_step.run(out_dir, args.images, args.variants, args.quick, args.profile)
    else:
        model.run(out_dir, args.sizes, args.tasks, args.modes)


if __name__ == '__main__':
    run_tool(main)
