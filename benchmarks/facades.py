"""KAT-S and its ViT twin on photographs of facades: three heads, trained and compared.

    tar -xf facade.tar.xz -C data     # data/facade/{train,val} with _annotations.coco.json
    python benchmarks/facades.py train
    python benchmarks/facades.py gather

``train`` makes all runs, with names those alone; a run that was stopped goes on, and one that is
complete stays, or is refused where it had another number of iterations. It makes one after another,
or several at a time on as many GPUs as it is told, and saves them where it is asked to end, as
`timeout` does:

    timeout 3600 python benchmarks/facades.py train --gpus 4 --per-gpu 2

UperNet (polygons as label images) learns from scratch. EoMT (instances) and Mask R-CNN, the latter
with three seeds, start from the backbone of UperNet of the same model, which is trained first where
it is missing; mask_rcnn_scratch starts from nothing, to see what that is worth. --iterations
shortens a run with all of its schedule, --validations says how many points its curve has;
--options go to tools/train.py, for a trial at a small size; give a trial its own --work-dirs.

``gather`` writes results.json (AP of boxes and masks of each class, mIoU), curves_HEAD.png, and
predictions as instances.jpg and labels.jpg, of the runs that are complete. AP and mIoU are those of
the last checkpoint on the validation split. The photographs are those of
github.com/a-hwang/building-facade-segmentation, CC BY 4.0.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import find_latest_checkpoint
from mmengine.structures import InstanceData, PixelData
from runs import (
    WITH_SEED,
    images_per_second,
    load_config,
    load_runner,
    plot_curves,
    read_scalars,
    train_entries,
)
from timing import machine, save

from kat_mm.datasets.coco_export import prepare_coco_export
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.visualization.detection import plot_detection
from kat_mm.visualization.predict import predict
from kat_mm.visualization.segmentation import plot_segmentation

ROOT = Path(__file__).resolve().parents[1]
SOURCE = 'Photographs: github.com/a-hwang/building-facade-segmentation, CC BY 4.0'
MODELS = {'kat_s': 'KAT-S', 'vit_s': 'ViT-S'}
PHOTOGRAPHS = 6  # on the page of predictions
LEAST_SCORE = 0.3  # of an object there
LEAST_ITERATIONS = 4  # that schedules can be shortened to
# Iterations in a schedule, and the least that they are shortened to: mmengine's warm-up of one
# would stay at its first rate for the whole run.
SCHEDULED = dict(begin=2, end=2, head_iters=1, backbone_iters=1)


class Kind(NamedTuple):
    """Runs of one head: how many seeds, from which kind's backbone, judged by what."""

    head: str
    seeds: int
    start: str | None
    metric: str


KINDS = {
    'upernet': Kind('upernet', 1, None, 'mIoU'),
    'mask_rcnn': Kind('mask_rcnn', 3, 'upernet', 'segm/segm_mAP'),
    'eomt_instance': Kind('eomt_instance', 1, 'upernet', 'segm/segm_mAP'),
    'mask_rcnn_scratch': Kind('mask_rcnn', 1, None, 'segm/segm_mAP'),
}


class Run(NamedTuple):
    """One run; its name is that of its work folder."""

    model: str
    kind: str
    seed: int

    def __str__(self) -> str:
        return f'{self.model}_{self.kind}_{self.seed}'

    @property
    def config(self) -> Path:
        return ROOT / f'configs/{self.model}_{KINDS[self.kind].head}_facades.py'

    @property
    def start(self) -> 'Run | None':
        start = KINDS[self.kind].start
        return start and Run(self.model, start, 0)


RUNS = {
    str(run): run
    for run in (
        Run(model, kind, seed)
        for kind in KINDS
        for model in MODELS
        for seed in range(KINDS[kind].seeds)
    )
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=('train', 'gather'))
    parser.add_argument('runs', nargs='*', help=f'default: all, {", ".join(RUNS)}')
    parser.add_argument('--gpus', type=int, help='share the runs among so many')
    parser.add_argument('--per-gpu', type=int, default=1, help='runs at a time on one of them')
    parser.add_argument('--data', type=Path, default=Path('data/facade'))
    parser.add_argument('--iterations', type=int, help="of each run; default: its config's")
    parser.add_argument('--validations', type=int, default=4, help='of a run with --iterations')
    parser.add_argument('--options', nargs='+', default=[], help='for tools/train.py')
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs/facades'))
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/facades'))
    args = parser.parse_intermixed_args()
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if args.gpus is not None and args.gpus < 1 or args.per_gpu < 1:
        parser.error('--gpus and --per-gpu: at least 1')
    if args.gpus and visible and len(visible.split(',')) < args.gpus:
        parser.error(f'--gpus {args.gpus}: CUDA_VISIBLE_DEVICES={visible} shows fewer')
    if args.iterations is not None and args.iterations < LEAST_ITERATIONS:
        parser.error(f'--iterations: at least {LEAST_ITERATIONS}')
    if args.validations < 1:
        parser.error('--validations: at least 1')
    for option in args.options:
        if '=' not in option:
            parser.error(f'--options: {option!r} is no KEY=VALUE; names of runs go before it')
    unknown = [name for name in args.runs if name not in RUNS]
    if unknown:
        parser.error(f'{unknown[0]!r} is none of the runs {", ".join(RUNS)}')
    return args


def is_complete(run: Run, args: argparse.Namespace) -> bool:
    return (args.work_dirs / str(run) / 'summary.json').exists()


def iterations_of(run: Run, args: argparse.Namespace) -> int:
    """Of one that is complete."""
    return json.loads((args.work_dirs / str(run) / 'summary.json').read_text())['iterations']


def require_iterations(runs: list[Run], args: argparse.Namespace) -> None:
    """Of runs that are complete, as many as asked for."""
    for run in runs:
        if not is_complete(run, args):
            continue
        found = iterations_of(run, args)
        wanted = args.iterations or Config.fromfile(run.config).train_cfg.max_iters
        if found != wanted:
            raise UserError(
                f'{run} is complete in {args.work_dirs} with {found} iterations, not {wanted}: '
                f'give --iterations {found}, other --work-dirs, or remove its folder'
            )
        print(f'{run} is complete, with {found} iterations')


def train_on_gpus(runs: list[Run], args: argparse.Namespace) -> None:
    """Each run in a process of its own, once its start is there and a GPU has room."""
    left = list(dict.fromkeys(one for run in runs for one in (run.start, run) if one))
    left = [run for run in left if not is_complete(run, args)]
    running: dict[Run, tuple[int, subprocess.Popen]] = {}
    is_ending = False

    def end(*_) -> None:
        nonlocal is_ending
        is_ending = True
        for _, process in list(running.values()):
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    while running or (left and not is_ending):
        for run, (_, process) in list(running.items()):
            if process.poll() is not None:
                del running[run]
                if process.returncode:
                    is_ending = True
                    print(f'{run} ended with status {process.returncode}; the others end first')
        for run in list(left):
            if is_ending:
                break
            on = [gpu for gpu, _ in running.values()]
            gpu = min(range(args.gpus), key=on.count)
            if on.count(gpu) < args.per_gpu and (not run.start or is_complete(run.start, args)):
                left.remove(run)
                running[run] = gpu, start(run, gpu, args)
                if is_ending:  # asked to meanwhile
                    end()
        time.sleep(0.2)
    lacking = [str(run) for run in runs if not is_complete(run, args)]
    if lacking:
        raise UserError(f'not complete: {", ".join(lacking)}; the same command goes on')


def start(run: Run, gpu: int, args: argparse.Namespace) -> subprocess.Popen:
    """This script, for one run on one GPU."""
    command = [sys.executable, __file__, 'train', str(run), *options_of(args)]
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    device = visible.split(',')[gpu] if visible else str(gpu)
    return subprocess.Popen(command, env=dict(os.environ, CUDA_VISIBLE_DEVICES=device))


def options_of(args: argparse.Namespace) -> list[str]:
    """Those that one run takes."""
    options = ['--data', args.data, '--work-dirs', args.work_dirs]
    options += ['--validations', args.validations]
    if args.iterations:
        options += ['--iterations', args.iterations]
    if args.options:
        options += ['--options', *args.options]
    return list(map(str, options))


def call(run: Run, command: list) -> None:
    """A training, which is handed on what asks this script to end: it saves, and ends."""
    process = subprocess.Popen(list(map(str, command)))
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        raise UserError(f'the training of {run} ended with status {status}, as told above')


def train(run: Run, args: argparse.Namespace) -> None:
    """Train a run to its end, and its start before it; write what ``gather`` reads."""
    work_dir = args.work_dirs / str(run)
    if is_complete(run, args):
        return
    options = [f'randomness.seed={run.seed}', *data_options(run, args.data), *args.options]
    if args.iterations:
        options += shorten(Config.fromfile(run.config), args.iterations, args.validations)
    if run.start:
        train(run.start, args)
        print(f'{run} starts from {run.start}, of {iterations_of(run.start, args)} iterations')
        checkpoint = find_latest_checkpoint(str(args.work_dirs / str(run.start)))
        options.append(f'model.backbone.init_cfg.checkpoint={checkpoint}')
    command = [sys.executable, ROOT / 'tools/train.py', run.config]
    command += ['--work-dir', work_dir, '--resume', '--cfg-options', *options]
    call(run, command)
    runner = load_runner(work_dir)
    dataset = runner.test_dataloader.dataset
    write_predictions(predict(runner, dataset, rows_of(dataset)), work_dir / 'predictions.npz')
    batch_size = runner.cfg.train_dataloader.batch_size
    summary = summarize(read_scalars(work_dir), KINDS[run.kind].metric, batch_size)
    summary['iterations'] = runner.cfg.train_cfg.max_iters  # the last of them may not be logged
    summary['start'] = str(run.start) if run.start else 'from scratch'
    (work_dir / 'summary.json').write_text(json.dumps(dict(summary, machine=machine())))


def data_options(run: Run, data: Path) -> list[str]:
    options = [f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val', 'test')]
    if run.kind != 'upernet':
        options += [
            f'{split}_evaluator.{index}.ann_file={data}/annotations/val.json'
            for split in ('val', 'test')
            for index in (0, 1)
        ]
    return options


def shorten(cfg: Config, iterations: int, validations: int) -> list[str]:
    """Options for a run of so many iterations and validations, its schedule in proportion."""
    whole = cfg.train_cfg.max_iters
    interval = -(-iterations // validations)

    def scaled(value: int | list[int], least: int) -> int | str:
        if isinstance(value, int):
            return value and max(least, -(-value * iterations // whole))
        return '[' + ','.join(str(scaled(one, least)) for one in value) + ']'

    options = [
        f'train_cfg.max_iters={iterations}',
        f'train_cfg.val_interval={interval}',
        f'default_hooks.checkpoint.interval={interval}',
    ]
    for field in ('param_scheduler', 'custom_hooks'):
        for index, part in enumerate(cfg[field]):
            for key, least in SCHEDULED.items():
                if key in part:
                    options.append(f'{field}.{index}.{key}={scaled(part[key], least)}')
    return options


def rows_of(dataset) -> list[int]:
    """Samples that are drawn, evenly chosen."""
    return [round(i * (len(dataset) - 1) / (PHOTOGRAPHS - 1)) for i in range(PHOTOGRAPHS)]


def write_predictions(samples: list, path: Path) -> None:
    arrays = {}
    for row, sample in enumerate(samples):
        if 'pred_sem_seg' in sample:
            arrays[f'{row}.data'] = sample.pred_sem_seg.data.numpy().astype(np.uint8)
            continue
        found = sample.pred_instances[sample.pred_instances.scores >= LEAST_SCORE]
        for key in ('bboxes', 'labels', 'scores', 'masks'):
            arrays[f'{row}.{key}'] = found[key].numpy()
    np.savez_compressed(path, **arrays)


def read_predictions(path: Path) -> list:
    """What ``write_predictions`` wrote, as data samples."""
    with np.load(path) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    samples = []
    for row in range(PHOTOGRAPHS):
        fields = {
            key.partition('.')[2]: value
            for key, value in arrays.items()
            if key.startswith(f'{row}.')
        }
        if 'data' in fields:
            samples.append(argparse.Namespace(pred_sem_seg=PixelData(**fields)))
        else:
            samples.append(argparse.Namespace(pred_instances=InstanceData(**fields)))
    return samples


def summarize(scalars: list[dict], key: str, batch_size: int) -> dict:
    """Curves, speed, memory, and what the last validation found, in percent."""
    entries = train_entries(scalars)
    validations = [entry for entry in scalars if key in entry]
    if not validations:
        raise UserError(f'the run has no validation with {key}')
    factor = 100 if key.startswith('segm') else 1
    return dict(
        **{
            name: round(factor * value, 2)
            for name, value in validations[-1].items()
            if name.startswith(('bbox/', 'segm/')) or name in ('mIoU', 'mAcc', 'aAcc')
        },
        train_images_per_second=images_per_second(scalars, batch_size),
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in entries),
        curve=[[entry['step'], round(factor * entry[key], 2)] for entry in validations],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in entries],
    )


def gather(runs: list[Run], args: argparse.Namespace) -> None:
    """Write results and pictures of the runs that are complete."""
    results, complete = {}, []
    for run in runs:
        if is_complete(run, args):
            complete.append(run)
            path = args.work_dirs / str(run) / 'summary.json'
            results[str(run)] = json.loads(path.read_text())
    if not complete:
        raise UserError(f'{args.work_dirs} holds no complete run; make some by `train`')
    means = {}
    for model, kind in dict.fromkeys((run.model, run.kind) for run in complete):
        values = [
            results[str(run)]['curve'][-1][1]
            for run in complete
            if (run.model, run.kind) == (model, kind)
        ]
        means[f'{MODELS[model]}, {kind}'] = dict(
            mean=round(statistics.mean(values), 2), values=values, metric=KINDS[kind].metric
        )
    args.out_dir.mkdir(parents=True, exist_ok=True)
    save(dict(means=means, runs=results), args.out_dir / 'results.json')
    for head in dict.fromkeys(KINDS[run.kind].head for run in complete):
        key = next(KINDS[run.kind].metric for run in complete if KINDS[run.kind].head == head)
        panels = [
            ('loss_curve', 'iteration', 'training loss'),
            ('curve', 'iteration', 'mIoU, %' if key == 'mIoU' else 'AP of masks, %'),
        ]
        chosen = {
            WITH_SEED.format(title=f'{MODELS[run.model]}, {run.kind}', seed=run.seed): results[
                str(run)
            ]
            for run in complete
            if KINDS[run.kind].head == head
        }
        plot_curves(chosen, panels, args.out_dir / f'curves_{head}.png')
    for picture, plot, kinds in (
        ('instances.jpg', plot_detection, ('mask_rcnn', 'eomt_instance')),
        ('labels.jpg', plot_segmentation, ('upernet',)),
    ):
        chosen = [run for run in complete if run.kind in kinds and run.seed == 0]
        if chosen:
            predictions = {
                f'{MODELS[run.model]}, {run.kind}': read_predictions(
                    args.work_dirs / str(run) / 'predictions.npz'
                )
                for run in chosen
            }
            dataset = build_dataset(chosen[0], args)
            extra = dict(score_threshold=LEAST_SCORE) if plot is plot_detection else {}
            path = args.out_dir / picture
            plot(predictions, dataset, rows_of(dataset), path, source=SOURCE, **extra)
    for name, value in means.items():
        print(name, value)


def build_dataset(run: Run, args: argparse.Namespace):
    """What a run predicted on, wherever the photographs are now."""
    cfg = load_config(args.work_dirs / str(run))
    init_default_scope(cfg.default_scope)
    return DATASETS.build(dict(cfg.test_dataloader.dataset, data_root=str(args.data)))


def main() -> None:
    args = parse_args()
    if not all((args.data / name).is_dir() for name in ('annotations', 'labels')):
        prepare_coco_export(args.data)
    runs = [RUNS[name] for name in args.runs or RUNS]
    if args.what == 'gather':
        gather(runs, args)
        return
    require_iterations(runs, args)
    if args.gpus:
        train_on_gpus(runs, args)
        return
    for run in runs:
        train(run, args)


if __name__ == '__main__':
    run_tool(main)
