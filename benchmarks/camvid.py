"""Compare KAT-T with its ViT twin on CamVid, from the work folders of two training runs.

    python tools/train.py configs/kat_t_upernet_camvid.py
    python tools/train.py configs/vit_t_upernet_camvid.py
    python benchmarks/camvid.py

Writes results.json, curves.png and predictions.jpg. The speed is that of a run's logged iterations
behind the 100th; where the two runs shared a GPU, --speed-dirs names runs that had it alone.
"""

import argparse
import datetime
import json
import platform
import statistics
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from kat_mm.engine.launch import build_runner, run_tool
from kat_mm.errors import UserError
from kat_mm.visualization.segmentation import plot_segmentation

MODELS = {'KAT-T': 'kat_t_upernet_camvid', 'ViT-T': 'vit_t_upernet_camvid'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs'))
    parser.add_argument('--speed-dirs', type=Path, help='default: --work-dirs')
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/camvid'))
    return parser.parse_args()


def read_scalars(work_dir: Path) -> list[dict]:
    files = list(work_dir.glob('*/vis_data/scalars.json'))
    if len(files) != 1:
        raise UserError(
            f'{work_dir} holds {len(files)} training logs; it must be the folder of one run of '
            'tools/train.py'
        )
    return [json.loads(line) for line in files[0].read_text().splitlines()]


def load_runner(work_dir: Path) -> Runner:
    """A runner with the weights of the last checkpoint."""
    checkpoint = find_latest_checkpoint(str(work_dir))
    if checkpoint is None:
        raise UserError(f'{work_dir} holds no checkpoint: its training did not get that far')
    cfg = Config.fromfile(work_dir / f'{work_dir.name}.py')
    cfg.update(
        launcher='none',
        resume=False,
        load_from=checkpoint,
        work_dir=str(work_dir / 'test'),
        log_level='ERROR',
        experiment_name=f'test_{work_dir.name}',
    )
    return build_runner(cfg)


def train_entries(scalars: list[dict]) -> list[dict]:
    return [entry for entry in scalars if 'loss' in entry]


def images_per_second(scalars: list[dict], batch_size: int) -> float:
    """Median over the log; the first 100 iterations hold compilation and autotuning."""
    seconds = [entry['time'] for entry in train_entries(scalars) if entry['step'] > 100]
    return round(batch_size / statistics.median(seconds), 1)


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


def plot_curves(results: dict, out_file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout='constrained')
    for axis, curve, label in zip(
        figure.subplots(1, 2),
        ('loss_curve', 'mIoU_curve'),
        ('training loss', 'validation mIoU, %'),
        strict=True,
    ):
        for name in MODELS:
            axis.plot(*zip(*results[name][curve], strict=True), label=name)
        axis.set(xlabel='iteration', ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(out_file, dpi=120)


def main() -> None:
    args = parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    runners, results = {}, {}
    for name, folder in MODELS.items():
        scalars = read_scalars(args.work_dirs / folder)
        runners[name] = runner = load_runner(args.work_dirs / folder)
        results[name] = summarize(scalars, runner.test())
        results[name]['train_images_per_second'] = images_per_second(
            read_scalars((args.speed_dirs or args.work_dirs) / folder),
            runner.cfg.train_dataloader.batch_size,
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    results['environment'] = dict(
        date=datetime.date.today().isoformat(), device=device, torch=torch.__version__
    )
    (args.out_dir / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    plot_curves(results, args.out_dir / 'curves.png')
    dataset = next(iter(runners.values())).test_dataloader.dataset
    rows = [round(i * (len(dataset) - 1) / 5) for i in range(6)]
    plot_segmentation(runners, dataset, rows, args.out_dir / 'predictions.jpg')
    for name in MODELS:
        print(name, {key: value for key, value in results[name].items() if 'curve' not in key})


if __name__ == '__main__':
    run_tool(main)
