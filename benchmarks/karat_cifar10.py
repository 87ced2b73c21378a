"""ViT-T with softmax and with KArAt, and KAT-T with KArAt, on CIFAR-10, from finished runs.

    for name in vit_t_softmax vit_t_karat vit_t_karat_universal kat_t_karat; do
        python tools/train.py configs/${name}_cifar10.py
    done
    python benchmarks/karat_cifar10.py

Runs of fewer epochs: --cfg-options train_cfg.max_epochs=30 param_scheduler.1.end=30. Runs that are
missing are left out. Writes results.json and curves.png, with the published top-1 accuracies after
100 epochs (KArAt, Maity et al. 2025) beside those of the runs. karat.py measures their speed.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from runs import plot_curves, read_scalars, train_entries
from timing import machine, save

from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError

# Title, and published top-1.
RUNS = {
    'vit_t_softmax_cifar10': ('ViT-T', 72.76),
    'vit_t_karat_cifar10': ('ViT-T + KArAt G3B', 76.69),
    'vit_t_karat_universal_cifar10': ('ViT-T + KArAt G3U', 75.56),
    'kat_t_karat_cifar10': ('KAT-T + KArAt G3B', None),
}
PANELS = [('loss_curve', 'iteration', 'training loss'), ('top1_curve', 'epoch', 'test top-1, %')]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs'))
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/karat_cifar10'))
    return parser.parse_args()


def summarize(work_dir: Path, title: str, published: float | None) -> dict:
    scalars = read_scalars(work_dir)
    train = train_entries(scalars)
    scores = [entry for entry in scalars if 'accuracy/top1' in entry]
    if not scores:
        raise UserError(f'{work_dir} was never evaluated; let its run end')
    (config,) = work_dir.glob('*.py')
    cfg = Config.fromfile(config)
    return dict(
        title=title,
        epochs=scores[-1]['step'],
        seed=cfg.randomness.seed,
        top1=round(scores[-1]['accuracy/top1'], 2),
        top5=round(scores[-1]['accuracy/top5'], 2),
        published_top1_after_100_epochs=published,
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in train),
        top1_curve=[[entry['step'], round(entry['accuracy/top1'], 2)] for entry in scores],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in train],
    )


def main() -> None:
    args = parse_args()
    results = {
        name: summarize(args.work_dirs / name, *run)
        for name, run in RUNS.items()
        if (args.work_dirs / name).is_dir()
    }
    if not results:
        raise UserError(f'{args.work_dirs} holds none of the runs {", ".join(RUNS)}')
    for result in results.values():
        print({key: value for key, value in result.items() if 'curve' not in key})
    save(dict(results, machine=machine()), args.out_dir / 'results.json')
    titles = {result['title']: result for result in results.values()}
    plot_curves(titles, PANELS, args.out_dir / 'curves.png')


if __name__ == '__main__':
    run_tool(main)
