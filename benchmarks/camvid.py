"""Compare KAT-T with its ViT twin on CamVid, from the work folders of two training runs.

    python tools/train.py configs/kat_t_upernet_camvid.py
    python tools/train.py configs/vit_t_upernet_camvid.py
    python benchmarks/camvid.py

Writes results.json, curves.png and predictions.jpg. The speed is that of a run's logged iterations
behind the 100th; where the two runs shared a GPU, --speed-dirs names runs that had it alone.
"""

import argparse
from pathlib import Path

from runs import images_per_second, load_runner, plot_curves, read_scalars, train_entries
from timing import machine, save

from kat_mm.engine.launch import run_tool
from kat_mm.visualization.segmentation import plot_segmentation

MODELS = {'KAT-T': 'kat_t_upernet_camvid', 'ViT-T': 'vit_t_upernet_camvid'}
PANELS = [
    ('loss_curve', 'iteration', 'training loss'),
    ('mIoU_curve', 'iteration', 'validation mIoU, %'),
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs'))
    parser.add_argument('--speed-dirs', type=Path, help='default: --work-dirs')
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/camvid'))
    return parser.parse_args()


def summarize(scalars: list[dict], final: dict) -> dict:
    train = train_entries(scalars)
    return dict(
        iterations=train[-1]['step'],
        **{key: round(float(final[key]), 2) for key in ('mIoU', 'mAcc', 'aAcc')},
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in train),
        mIoU_curve=[[entry['step'], entry['mIoU']] for entry in scalars if 'mIoU' in entry],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in train],
    )


def main() -> None:
    args = parse_args()
    runners, results = {}, {}
    for name, folder in MODELS.items():
        scalars = read_scalars(args.work_dirs / folder)
        runners[name] = runner = load_runner(args.work_dirs / folder)
        results[name] = summarize(scalars, runner.test())
        results[name]['train_images_per_second'] = images_per_second(
            read_scalars((args.speed_dirs or args.work_dirs) / folder),
            runner.cfg.train_dataloader.batch_size,
        )
    save(dict(results, machine=machine()), args.out_dir / 'results.json')
    plot_curves(results, PANELS, args.out_dir / 'curves.png')
    dataset = next(iter(runners.values())).test_dataloader.dataset
    rows = [round(i * (len(dataset) - 1) / 5) for i in range(6)]
    plot_segmentation(runners, dataset, rows, args.out_dir / 'predictions.jpg')
    for name in MODELS:
        print(name, {key: value for key, value in results[name].items() if 'curve' not in key})


if __name__ == '__main__':
    run_tool(main)
