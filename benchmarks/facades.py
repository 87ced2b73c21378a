"""Train and compare KAT-S with its ViT twin on photographs of facades, in one command on one GPU.

    tar -xf facade.tar.xz -C data     # data/facade/{train,val} with _annotations.coco.json
    python benchmarks/facades.py --kat KAT.pth --vit VIT.pth

Mask R-CNN with three seeds, EoMT (instances) and UperNet (polygons as label images) with one. A run
that was stopped goes on, and one that is complete stays. --kat and --vit are checkpoints of
classifiers that all runs start from; without them runs start from scratch. --options go to
tools/train.py, for a trial at a small size.

Writes results.json (AP of boxes and masks of each class, mIoU, the start of each run), curves.png,
and predictions as instances.jpg and labels.jpg. AP and mIoU are those of the last checkpoint on the
validation split. The photographs are those of github.com/a-hwang/building-facade-segmentation,
CC BY 4.0.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from runs import images_per_second, load_runner, plot_curves, read_scalars, train_entries
from timing import machine, save

from kat_mm.datasets.coco_export import prepare_coco_export
from kat_mm.engine.launch import run_tool
from kat_mm.visualization.detection import plot_detection
from kat_mm.visualization.segmentation import plot_segmentation

ROOT = Path(__file__).resolve().parents[1]
# By head: seeds, and the metric of the curves.
HEADS = {
    'mask_rcnn': (3, 'segm/segm_mAP'),
    'eomt_instance': (1, 'segm/segm_mAP'),
    'upernet': (1, 'mIoU'),
}
MODELS = {'kat_s': 'KAT-S', 'vit_s': 'ViT-S'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=Path('data/facade'))
    parser.add_argument('--kat', type=Path, help='checkpoint that KAT starts from')
    parser.add_argument('--vit', type=Path, help='checkpoint that ViT starts from')
    parser.add_argument('--heads', nargs='+', choices=HEADS, default=list(HEADS))
    parser.add_argument('--seeds', type=int, help='at most so many')
    parser.add_argument('--options', nargs='+', default=[], help='for tools/train.py')
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs/facades'))
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/facades'))
    return parser.parse_args()


def train(config: str, seed: int, start: Path | None, args: argparse.Namespace) -> Path:
    """The work folder of a run, which is trained to its end."""
    work_dir = args.work_dirs / f'{config}_{seed}'
    options = [f'randomness.seed={seed}', *data_options(config, args.data), *args.options]
    if start is not None:
        init = 'model.backbone.init_cfg'
        options += [f'{init}.type=Pretrained', f'{init}.checkpoint={start}']
    command = [sys.executable, ROOT / 'tools/train.py', ROOT / 'configs' / f'{config}.py']
    command += ['--work-dir', work_dir, '--resume', '--cfg-options', *options]
    subprocess.run(list(map(str, command)), check=True)
    return work_dir


def data_options(config: str, data: Path) -> list[str]:
    options = [f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val', 'test')]
    if 'upernet' not in config:
        options += [
            f'{split}_evaluator.{index}.ann_file={data}/annotations/val.json'
            for split in ('val', 'test')
            for index in (0, 1)
        ]
    return options


def summarize(scalars: list[dict], final: dict, key: str, batch_size: int) -> dict:
    entries = train_entries(scalars)
    factor = 100 if key.startswith('segm') else 1
    return dict(
        iterations=entries[-1]['step'],
        **{name: round(factor * float(value), 2) for name, value in final.items()},
        train_images_per_second=images_per_second(scalars, batch_size),
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in entries),
        curve=[[entry['step'], round(factor * entry[key], 2)] for entry in scalars if key in entry],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in entries],
    )


def main() -> None:
    args = parse_args()
    if not (args.data / 'annotations').is_dir() or not (args.data / 'labels').is_dir():
        prepare_coco_export(args.data)
    starts = dict(kat_s=args.kat, vit_s=args.vit)
    results, runners = {}, {}
    for head in args.heads:
        seeds, key = HEADS[head]
        for model, title in MODELS.items():
            for seed in range(min(seeds, args.seeds or seeds)):
                config = f'{model}_{head}_facades'
                work_dir = train(config, seed, starts[model], args)
                runner = load_runner(work_dir)
                name = f'{title}, {head}, seed {seed}'
                results[name] = summarize(
                    read_scalars(work_dir),
                    runner.test(),
                    key,
                    runner.cfg.train_dataloader.batch_size,
                )
                results[name]['start'] = starts[model].name if starts[model] else 'from scratch'
                if seed == 0:
                    runners[head, title] = runner
    means = {
        f'{title}, {head}': round(statistics.mean(values), 2)
        for head in args.heads
        for title in MODELS.values()
        if (values := last_values(results, f'{title}, {head},'))
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    save(dict(runs=results, means=means, machine=machine()), args.out_dir / 'results.json')
    panels = [
        ('loss_curve', 'iteration', 'training loss'),
        ('curve', 'iteration', 'AP of masks, or mIoU, %'),
    ]
    plot_curves(results, panels, args.out_dir / 'curves.png')
    for picture, plot, heads in (
        ('instances.jpg', plot_detection, ('mask_rcnn', 'eomt_instance')),
        ('labels.jpg', plot_segmentation, ('upernet',)),
    ):
        chosen = {
            f'{title}, {head}': runner for (head, title), runner in runners.items() if head in heads
        }
        if chosen:
            dataset = next(iter(chosen.values())).test_dataloader.dataset
            rows = [round(i * (len(dataset) - 1) / 5) for i in range(6)]
            plot(chosen, dataset, rows, args.out_dir / picture)
    for name, value in means.items():
        print(name, value)


def last_values(results: dict[str, dict], beginning: str) -> list[float]:
    return [
        result['curve'][-1][1]
        for name, result in results.items()
        if name.startswith(beginning) and result['curve']
    ]


if __name__ == '__main__':
    run_tool(main)
