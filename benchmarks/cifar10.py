"""KAT-T, its ViT twin, and KAT-T started from that ViT, on CIFAR-10, from finished runs.

    C=configs; W=work_dirs/cifar10
    for seed in 0 1 2; do
        python tools/train.py $C/vit_t_cifar10.py --work-dir $W/vit_$seed \
            --cfg-options randomness.seed=$seed
        python tools/train.py $C/kat_t_cifar10.py --work-dir $W/kat_$seed \
            --cfg-options randomness.seed=$seed
    done
    V="load_from=$W/vit_0/epoch_100.pth randomness.seed=0"
    T=$C/kat_t_from_vit_cifar10.py; F=model.backbone.ffn_cfg
    python tools/train.py $T --work-dir $W/gelu_0 --cfg-options $V
    python tools/train.py $T --work-dir $W/swish_0 --cfg-options $V $F.act_init=identity,swish
    python tools/train.py $T --work-dir $W/mlp_0 --cfg-options $V $F._delete_=True $F.type=MLP
    python benchmarks/cifar10.py

Runs of other seeds are taken where their folders are, such as gelu_1; those that are missing are
left out. Writes results.json, curves.png and preactivations.png. Speeds are those of a run's logged
iterations behind the 100th; where runs shared a GPU, --speed-dirs names runs that had it alone.

The conversion takes every trained ViT, makes a KAT of it with each fit of GELU that is listed here,
and compares both on the test images before any training step, in float32.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint
from runs import images_per_second, read_scalars, train_entries
from timing import machine, save
from torch import nn

from kat_mm.backbones import convert_for_model
from kat_mm.checkpoints import read_checkpoint
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.fits import RationalFit
from kat_mm.fits.fitter import FUNCTIONS, evaluate
from kat_mm.layers.rational import initial_fit
from kat_mm.visualization.activations import PreActivations

MODELS_BY_FOLDER = {
    'vit': 'ViT-T from scratch',
    'kat': 'KAT-T from scratch',
    'mlp': 'ViT-T, trained on',
    'gelu': 'KAT-T from ViT-T, GELU start',
    'swish': 'KAT-T from ViT-T, swish start',
}
# What act2 starts as: function, order and interval.
STARTS = {
    'gelu (5, 4) on [-8, 8]': ('gelu', (5, 4), (-8.0, 8.0)),
    'gelu (5, 4) on [-6, 6]': ('gelu', (5, 4), (-6.0, 6.0)),
    'gelu (5, 4) on [-4, 4]': ('gelu', (5, 4), (-4.0, 4.0)),
    'gelu (7, 6) on [-8, 8]': ('gelu', (7, 6), (-8.0, 8.0)),
    'gelu (7, 6) on [-6, 6]': ('gelu', (7, 6), (-6.0, 6.0)),
    'gelu (8, 7) on [-8, 8]': ('gelu', (8, 7), (-8.0, 8.0)),
    'gelu (9, 8) on [-8, 8]': ('gelu', (9, 8), (-8.0, 8.0)),
    'gelu (9, 8) on [-12, 12]': ('gelu', (9, 8), (-12.0, 12.0)),
    'swish (5, 4) on [-3, 3]': ('swish', (5, 4), (-3.0, 3.0)),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs/cifar10'))
    parser.add_argument('--speed-dirs', type=Path, help='default: --work-dirs')
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/cifar10'))
    return parser.parse_args()


def find_runs(folder: Path) -> dict[str, dict[int, Path]]:
    """Work folders by model and seed, from their names."""
    runs = {
        name: {
            int(path.name.rpartition('_')[2]): path
            for path in sorted(folder.glob(f'{name}_*'))
            if path.name.rpartition('_')[2].isdecimal()
        }
        for name in MODELS_BY_FOLDER
    }
    runs = {name: seeds for name, seeds in runs.items() if seeds}
    if not runs:
        raise UserError(f'{folder} holds no runs such as {folder}/vit_0; see the head of this file')
    return runs


# What the runs logged


def summarize(scalars: list[dict]) -> dict:
    train = train_entries(scalars)
    scores = [entry for entry in scalars if 'accuracy/top1' in entry]
    return dict(
        top1=round(scores[-1]['accuracy/top1'], 2),
        epochs=scores[-1]['step'],
        iterations=train[-1]['step'],
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in train),
        top1_curve=[[entry['step'], entry['accuracy/top1']] for entry in scores],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in train],
    )


# The conversion


def load_config(work_dir: Path) -> Config:
    (path,) = work_dir.glob('*.py')
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return cfg


def build(model: dict, content: dict, path: str) -> nn.Module:
    """A classifier with the weights of a checkpoint; rational functions keep their start."""
    classifier = MODELS.build(copy.deepcopy(model))
    classifier.load_state_dict(convert_for_model(content, classifier, path), strict=False)
    return classifier.eval().to('cuda' if torch.cuda.is_available() else 'cpu')


@torch.no_grad()
def load_test_images(model: nn.Module, cfg: Config) -> list[dict]:
    """The test images as batches that are ready for the models of a config."""
    loader = dict(cfg.test_dataloader, num_workers=0, persistent_workers=False)
    return [model.data_preprocessor(batch) for batch in Runner.build_dataloader(loader)]


@torch.no_grad()
def run(model: nn.Module, batches: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, C) and logits (N, classes)."""
    features = [model.extract_feat(batch['inputs'])[-1] for batch in batches]
    return torch.cat(features), torch.cat([model.head((feature,)) for feature in features])


def compare_conversions(work_dir: Path) -> tuple[dict, PreActivations]:
    """Every start of STARTS against the ViT of a run, on the test images, before any step."""
    cfg, path = load_config(work_dir), find_latest_checkpoint(str(work_dir))
    content = read_checkpoint(path)
    vit = build(cfg.model, content, path)
    batches = load_test_images(vit, cfg)
    labels = torch.cat([sample.gt_label for batch in batches for sample in batch['data_samples']])
    with PreActivations(vit) as inputs:
        features, logits = run(vit, batches)
    labels = labels.to(logits.device)
    results = dict(vit_top1=percent(logits.argmax(1) == labels), starts={})
    for start, (function, order, interval) in STARTS.items():
        model = copy.deepcopy(cfg.model)
        model.backbone.ffn_cfg = dict(
            type='GRKAN', act_init=('identity', function), order=order, act_interval=interval
        )
        own_features, own_logits = run(build(model, content, path), batches)
        results['starts'][start] = dict(
            top1=percent(own_logits.argmax(1) == labels),
            agreement=percent(own_logits.argmax(1) == logits.argmax(1)),
            relative_l2=float((own_features - features).norm() / features.norm()),
            rms_error=error_on_inputs(initial_fit(function, order, interval), inputs),
        )
    return results, inputs


def percent(hits: torch.Tensor) -> float:
    return round(100 * hits.float().mean().item(), 2)


def error_on_inputs(fit: RationalFit, inputs: PreActivations) -> float:
    """Root mean square of the fit's error over all pre-activations, relative to that of GELU."""
    counts = sum(counts.sum(axis=0) for counts in inputs.counts.values())
    exact = FUNCTIONS['gelu'](inputs.centers())
    error = evaluate(fit, inputs.centers()) - exact
    return float(np.sqrt((counts @ error**2) / (counts @ exact**2)))


def describe_inputs(inputs: PreActivations) -> dict:
    """Range and quantiles of each activation's inputs."""
    shares = (0.001, 0.01, 0.5, 0.99, 0.999)
    return {
        name: dict(
            lowest=round(inputs.ranges[name][0], 3),
            highest=round(inputs.ranges[name][1], 3),
            **{f'quantile_{share:g}': round(inputs.quantile(name, share), 3) for share in shares},
        )
        for name in inputs.counts
    }


# Plots


def plot_curves(results: dict, out_file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout='constrained')
    titles = {'from scratch': ('vit', 'kat'), 'from the trained ViT-T': ('mlp', 'gelu', 'swish')}
    titles = {title: names for title, names in titles.items() if results['runs'].keys() & names}
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    axis_of = {
        name: axis for axis, names in zip(axes, titles.values(), strict=True) for name in names
    }
    for name, title in MODELS_BY_FOLDER.items():
        runs = list(results['runs'].get(name, {}).values())
        if not runs:
            continue
        axis = axis_of[name]
        epochs = [epoch for epoch, _ in runs[0]['top1_curve']]
        values = np.array([[value for _, value in run['top1_curve']] for run in runs])
        (line,) = axis.plot(epochs, values.mean(axis=0), label=f'{title} ({len(runs)})')
        axis.fill_between(epochs, values.min(0), values.max(0), alpha=0.2, color=line.get_color())
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel='epoch', ylabel='test accuracy, %', title=f'{title} (number of seeds)')
        axis.grid(alpha=0.3)
        axis.legend(fontsize='small')
    figure.savefig(out_file, dpi=120)


def plot_inputs(inputs: PreActivations, out_file: Path) -> None:
    """Pre-activations of a ViT over all its blocks, and the error of each fit of GELU."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axis = figure.subplots()
    x = np.linspace(-12, 12, 2001)
    for start, (function, order, interval) in STARTS.items():
        if function == 'gelu':
            error = np.abs(
                evaluate(initial_fit(function, order, interval), x) - FUNCTIONS['gelu'](x)
            )
            axis.semilogy(x, np.maximum(error, 1e-7), label=start, linewidth=1)
    axis.set(xlabel='pre-activation', ylabel='|fit - GELU|', xlim=(-12, 12), ylim=(1e-7, 10))
    axis.legend(fontsize='small', loc='upper center', ncols=2)
    behind = axis.twinx()
    counts = sum(counts.sum(axis=0) for counts in inputs.counts.values())
    behind.fill_between(inputs.centers(), counts, step='mid', color='0.8', linewidth=0)
    behind.set(yscale='log', ylabel='number of pre-activations (grey)')
    axis.set_zorder(behind.get_zorder() + 1)
    axis.patch.set_visible(False)
    figure.savefig(out_file, dpi=120)


def main() -> None:
    args = parse_args()
    runs = find_runs(args.work_dirs)
    results = dict(runs={}, conversion={})
    inputs = None
    for name, seeds in runs.items():
        results['runs'][name] = {}
        for seed, work_dir in seeds.items():
            summary = summarize(read_scalars(work_dir))
            speed_dir = (args.speed_dirs or args.work_dirs) / work_dir.name
            if speed_dir.is_dir():
                batch_size = load_config(speed_dir).train_dataloader.batch_size
                summary['train_images_per_second'] = images_per_second(
                    read_scalars(speed_dir), batch_size
                )
            results['runs'][name][seed] = summary
            print(work_dir.name, {k: v for k, v in summary.items() if 'curve' not in k})
    for seed, work_dir in runs.get('vit', {}).items():
        if find_latest_checkpoint(str(work_dir)) is None:
            print(f'{work_dir} has no checkpoint: no conversion')
            continue
        results['conversion'][seed], counted = compare_conversions(work_dir)
        results['conversion'][seed]['inputs'] = describe_inputs(counted)
        inputs = inputs or counted
        for start, figures in results['conversion'][seed]['starts'].items():
            print(f'ViT of seed {seed} to KAT, {start}: {figures}')
    save(dict(results, machine=machine()), args.out_dir / 'results.json')
    plot_curves(results, args.out_dir / 'curves.png')
    if inputs:
        plot_inputs(inputs, args.out_dir / 'preactivations.png')


if __name__ == '__main__':
    run_tool(main)
