"""Training on two GPUs of one host against one: how much of twice the speed is left.

    python benchmarks/data_parallel.py --gpus 2

KAT-B and timm's ViT-B as classifiers with a batch of 128, and UperNet on KAT-S with a batch of 16,
all of it on each GPU, bfloat16 autocast. ``torchrun`` starts one process, then as many as there are
GPUs, and so on in turns; all wrap the models as mmengine does. Images and labels are random and on
the GPU, but for UperNet's, which come from the host. Writes results.json.
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

import model as classifiers
import segmentation
import torch
from mmengine.model import MMDistributedDataParallel
from timing import machine, require_gpu, save, step_times
from torch import distributed

from kat_mm.engine.launch import run_tool

RESULTS = Path(__file__).parent / 'results' / 'data_parallel'
TARGET = 0.95
CLASSIFIERS = {'KAT-B': ('KAT', 'base', 128), 'timm ViT-B': ('timm', 'base', 128)}
UPERNET = 'kat_s_upernet_ade20k'
UPERNET_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--gpus', type=int, default=2)
    parser.add_argument('--turns', type=int, default=2, help='of one GPU and of all')
    parser.add_argument('--out-dir', type=Path, default=RESULTS)
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    require_gpu()
    if args.worker:
        work(args.worker)
    else:
        run(args.gpus, args.turns, args.out_dir)


def run(gpus: int, turns: int, out_dir: Path) -> None:
    """Measure, print and write results.json."""
    rates: dict[int, list[dict]] = {1: [], gpus: []}
    for _ in range(turns):
        for count, found in rates.items():
            found.append(launch(count))
    models = {}
    for name in rates[1][0]:
        of = {count: [one[name] for one in found] for count, found in rates.items()}
        one, all_ = (statistics.median(of[count]) for count in (1, gpus))
        models[name] = {
            'images_per_second': {str(count): values for count, values in of.items()},
            'ratio_to_all_of_one': all_ / (gpus * one),
            'target': TARGET,
        }
        print(f'{name:24} {one:8.1f} images/s, {gpus} GPUs {all_:8.1f}: ', end='')
        print(f'{models[name]["ratio_to_all_of_one"]:.3f} (target {TARGET})')
    lead = {
        str(count): statistics.median(one['KAT-B'] / one['timm ViT-B'] for one in found)
        for count, found in rates.items()
    }
    print('KAT-B over timm ViT-B:', {count: round(value, 3) for count, value in lead.items()})
    save(
        {'machine': machine(), 'gpus': gpus, 'models': models, 'lead_over_timm': lead},
        out_dir / 'results.json',
    )


def launch(count: int) -> dict[str, float]:
    """Images per second of all processes together, by model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'rates.json'
        subprocess.run(
            [
                *(sys.executable, '-m', 'torch.distributed.run', '--standalone'),
                f'--nproc_per_node={count}',
                *(__file__, '--worker', str(path)),
            ],
            check=True,
            env={**os.environ, 'OMP_NUM_THREADS': '4'},
        )
        return json.loads(path.read_text())


def work(path: Path) -> None:
    """One process of several."""
    distributed.init_process_group('nccl')
    torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    steps, batches = {}, {}
    for name, (kind, arch, batch) in CLASSIFIERS.items():
        steps[name], batches[name] = classifier(kind, arch, batch), batch
    for kind in segmentation.KINDS[1:]:
        name = f'{UPERNET}, {kind}'
        steps[name], batches[name] = upernet(kind), UPERNET_BATCH
    times = step_times(steps)
    # The slowest process is what the others wait for.
    slowest = torch.tensor([t['median'] for t in times.values()], device='cuda')
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX)
    count = distributed.get_world_size()
    if distributed.get_rank() == 0:
        rates = {
            name: 1000 * count * batches[name] / ms
            for name, ms in zip(steps, slowest.tolist(), strict=True)
        }
        path.write_text(json.dumps(rates))
    distributed.destroy_process_group()


def wrap(model: torch.nn.Module) -> MMDistributedDataParallel:
    """As mmengine's Runner does."""
    device = torch.cuda.current_device()
    return MMDistributedDataParallel(model, device_ids=[device], broadcast_buffers=False)


def classifier(kind: str, arch: str, batch: int) -> Callable[[], None]:
    return classifiers.training_step(wrap(classifiers.build(kind, arch).cuda()), batch)


def upernet(kind: str) -> Callable[[], None]:
    segmentor = segmentation.Segmentor(
        segmentation.CONFIGS / f'{UPERNET}.py', kind, UPERNET_BATCH, ()
    )
    segmentor.model = wrap(segmentor.model)
    segmentor.model.train()
    return segmentor.train


if __name__ == '__main__':
    run_tool(main)
