"""Training on two GPUs of one host against one: how much of twice the speed is left.

    python benchmarks/data_parallel.py --gpus 2
    python benchmarks/data_parallel.py --quick      # small models on a CPU, for a try

KAT-B and timm's ViT-B as classifiers with a batch of 128, as they are and compiled, and UperNet on
KAT-S with a batch of 16, all of it on each GPU, bfloat16 autocast. ``torchrun`` starts one process,
then as many as there are GPUs, and so on in turns; all wrap the models as mmengine does. Images and
labels are random and on the GPU, but for UperNet's, which come from the host. Of the first process
there is what its GPU works in a step too, and the part of NCCL's kernels, which begin to count when
they begin to wait for the other processes. Writes results.json after each turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import model as classifiers
import segmentation
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from timing import kernel_profile, machine, require_gpu, save, step_times
from torch import distributed

from kat_mm.engine.launch import run_tool

RESULTS = Path(__file__).parent / 'results' / 'data_parallel'
TARGET = 0.95


# Before the names of models that torch.compile takes.
COMPILED = 'compiled '


class Case(NamedTuple):
    """What is trained: two classifiers, whose ratio is the lead, and a segmentor."""

    classifiers: dict[str, tuple[str, str]]
    batch: int
    upernet: str
    upernet_batch: int
    prefixes: tuple[str, ...]
    turns: dict[str, int]


CASE = Case(
    {'KAT-B': ('KAT', 'base'), 'timm ViT-B': ('timm', 'base')},
    128,
    'kat_s_upernet_ade20k',
    16,
    ('', COMPILED),
    dict(rounds=5, steps=10),
)
QUICK = Case(
    {'KAT-T': ('KAT', 'tiny'), 'timm ViT-T': ('timm', 'tiny')},
    1,
    'kat_t_upernet_sample',
    1,
    ('',),  # a CPU compiles for minutes
    dict(rounds=1, steps=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--gpus', type=int, default=2)
    parser.add_argument('--turns', type=int, default=2, help='of one GPU and of all')
    parser.add_argument('--out-dir', type=Path, default=RESULTS)
    parser.add_argument(
        '--quick', action='store_true', help='small models and one turn, for a try on a CPU'
    )
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.quick:
        require_gpu()
    if args.worker:
        work(args.worker, QUICK if args.quick else CASE)
    else:
        run(args.gpus, 1 if args.quick else args.turns, args.out_dir, args.quick)


def run(gpus: int, turns: int, out_dir: Path, quick: bool) -> None:
    """Measure, print and write results.json; each turn is saved at once."""
    turns_of: dict[int, list[dict]] = {1: [], gpus: []}
    for _ in range(turns):
        for count, found in turns_of.items():
            found.append(launch(count, quick))
        results = summary(turns_of, gpus, QUICK if quick else CASE)
        save(results, out_dir / 'results.json')
    for name, model in results['models'].items():
        rate = {
            count: statistics.median(values) for count, values in model['images_per_second'].items()
        }
        print(
            f'{name:40} {rate["1"]:8.1f} images/s, {gpus} processes {rate[str(gpus)]:8.1f}: '
            f'{model["ratio_to_all_of_one"]:.3f} (target {TARGET})'
        )
        for figure in ('gpu_ms', 'nccl_ms'):
            print(f'    {figure}', *(f'{count}: {model[figure][count][-1]:.1f}' for count in rate))
    print('lead over timm:', results['lead_over_timm'])


def summary(turns_of: dict[int, list[dict]], gpus: int, case: Case) -> dict:
    """Results of the turns so far."""
    models = {}
    for name in turns_of[1][0]:
        of = {count: [turn[name] for turn in turns] for count, turns in turns_of.items()}
        one, all_ = (median_rate(of[count]) for count in (1, gpus))
        models[name] = {
            figure: {str(count): [turn[figure] for turn in turns] for count, turns in of.items()}
            for figure in ('images_per_second', 'gpu_ms', 'nccl_ms')
        } | {
            'ratio_to_all_of_one': all_ / (gpus * one),
            'target': TARGET,
        }
    leads = {}
    for prefix in case.prefixes:
        ours, timm = (prefix + name for name in case.classifiers)
        leads[ours] = {
            str(count): round(
                statistics.median(
                    turn[ours]['images_per_second'] / turn[timm]['images_per_second']
                    for turn in turns
                ),
                3,
            )
            for count, turns in turns_of.items()
        }
    return {'machine': machine(), 'gpus': gpus, 'models': models, 'lead_over_timm': leads}


def median_rate(found: list[dict]) -> float:
    return statistics.median(model['images_per_second'] for model in found)


def launch(count: int, quick: bool) -> dict[str, dict]:
    """By model images per second of all processes together, and the work of the first one's GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'found.json'
        subprocess.run(
            [
                *(sys.executable, '-m', 'torch.distributed.run', '--standalone'),
                f'--nproc_per_node={count}',
                *(__file__, '--worker', str(path), *(['--quick'] if quick else [])),
            ],
            check=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1' if quick else '4'},
        )
        return json.loads(path.read_text())


def work(path: Path, case: Case) -> None:
    """One process of several."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    distributed.init_process_group('nccl' if device == 'cuda' else 'gloo')
    if device == 'cuda':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    steps, batches = {}, {}
    for prefix in case.prefixes:
        for name, (kind, arch) in case.classifiers.items():
            model = classifiers.build(kind, arch).to(device)
            model = wrap(torch.compile(model) if prefix else model)
            steps[prefix + name] = classifiers.training_step(model, case.batch)
            batches[prefix + name] = case.batch
    for kind in segmentation.KINDS[1:]:
        name = f'{case.upernet}, {kind}'
        steps[name], batches[name] = upernet(case, kind), case.upernet_batch
    times = step_times(steps, **case.turns)
    # The slowest process is what the others wait for.
    slowest = torch.tensor([t['median'] for t in times.values()], device=device)
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX)
    profiles = [kernel_profile(step, device == 'cuda') for step in steps.values()]
    count = distributed.get_world_size()
    if distributed.get_rank() == 0:
        found = {
            name: {
                'images_per_second': 1000 * count * batches[name] / ms,
                'gpu_ms': round(sum(profile.values()), 2),
                'nccl_ms': round(sum(ms for name, ms in profile.items() if 'nccl' in name), 2),
            }
            for name, ms, profile in zip(steps, slowest.tolist(), profiles, strict=True)
        }
        path.write_text(json.dumps(found))
    distributed.destroy_process_group()


def wrap(model: torch.nn.Module) -> MMDistributedDataParallel:
    """As mmengine's Runner does."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else None
    return MMDistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def upernet(case: Case, kind: str) -> Callable[[], None]:
    cfg = Config.fromfile(segmentation.CONFIGS / f'{case.upernet}.py')
    segmentor = segmentation.Segmentor(cfg, kind, case.upernet_batch, ())
    segmentor.model = wrap(segmentor.model)
    segmentor.model.train()
    return segmentor.train


if __name__ == '__main__':
    run_tool(main)
