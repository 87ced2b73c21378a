"""ViT-T with softmax and with KArAt, and KAT-T with KArAt, on CIFAR-10, from finished runs.

    for name in vit_t_softmax vit_t_karat vit_t_karat_universal kat_t_karat; do
        python tools/train.py configs/${name}_cifar10.py \\
            --cfg-options train_cfg.max_epochs=30 param_scheduler.1.end=30
    done
    python benchmarks/karat_cifar10.py

Without --cfg-options there are 100 epochs, as published. A run that is missing keeps what
results.json says of it. Writes results.json and curves.png, with the published top-1 accuracies
after 100 epochs (KArAt, Maity et al. 2025) beside those of the runs, and with how the functions
started (``function_init``). karat.py measures their speed.
"""

import argparse
import json
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
        device=machine()['device'],
        function_init=function_init(cfg.model.backbone.attn_cfg),
        top1=round(scores[-1]['accuracy/top1'], 2),
        top5=round(scores[-1]['accuracy/top5'], 2),
        published_top1_after_100_epochs=published,
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in train),
        top1_curve=[[entry['step'], round(entry['accuracy/top1'], 2)] for entry in scores],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in train],
    )


def function_init(attn_cfg: dict) -> str | None:
    """How functions started; before ``modular`` was an argument all as they now do if 'scaled'."""
    if attn_cfg['type'] != 'KArAt':
        return None
    return attn_cfg.get('function_init', 'scaled' if 'operator' in attn_cfg else 'normal')


def title_of(result: dict) -> str:
    scaled = result['function_init'] == 'scaled'
    return result['title'] + ', scaled start' * scaled


def main() -> None:
    args = parse_args()
    found = {
        name: summarize(args.work_dirs / name, *run)
        for name, run in RUNS.items()
        if (args.work_dirs / name).is_dir()
    }
    if not found:
        raise UserError(f'{args.work_dirs} holds none of the runs {", ".join(RUNS)}')
    for result in found.values():
        print({key: value for key, value in result.items() if 'curve' not in key})
    path = args.out_dir / 'results.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    results = {name: (before | found)[name] for name in RUNS if name in before | found}
    save(dict(results, machine=machine()), path)
    titles = {title_of(result): result for result in results.values()}
    plot_curves(titles, PANELS, args.out_dir / 'curves.png')


if __name__ == '__main__':
    run_tool(main)
