"""A trained ViT as a KAT before any training step: which start of act2 keeps its function.

    python benchmarks/conversion.py      # the ViTs of compare.py, work_dirs/cifar10/vit_SEED

Makes a KAT of every trained ViT with each fit of GELU that is listed here, and compares both on the
test images, in float32. Writes results.json and preactivations.png.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint
from runs import load_config
from timing import machine, save
from torch import nn

from kat_mm.backbones import convert_for_model
from kat_mm.checkpoints import read_checkpoint
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.fits import RationalFit
from kat_mm.fits.fitter import FUNCTIONS, evaluate_fit
from kat_mm.layers.rational import initial_fit
from kat_mm.visualization.activations import PreActivations

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
    init_default_scope(cfg.default_scope)
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
    error = evaluate_fit(fit, inputs.centers()) - exact
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


def plot_inputs(inputs: PreActivations, out_file: Path) -> None:
    """Pre-activations of a ViT over all its blocks, and the error of each fit of GELU."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axis = figure.subplots()
    x = np.linspace(-12, 12, 2001)
    for start, (function, order, interval) in STARTS.items():
        if function == 'gelu':
            error = np.abs(
                evaluate_fit(initial_fit(function, order, interval), x) - FUNCTIONS['gelu'](x)
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs/cifar10'))
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/conversion'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    trained = {
        path.name.removeprefix('vit_'): path
        for path in sorted(args.work_dirs.glob('vit_*'))
        if find_latest_checkpoint(str(path)) is not None
    }
    if not trained:
        raise UserError(f'{args.work_dirs} holds no trained ViT such as {args.work_dirs}/vit_0')
    results, first = {}, None
    for seed, work_dir in trained.items():
        results[seed], counted = compare_conversions(work_dir)
        results[seed]['inputs'] = describe_inputs(counted)
        first = first or counted
        for start, figures in results[seed]['starts'].items():
            print(f'ViT of seed {seed} to KAT, {start}: {figures}')
    save(dict(conversion=results, machine=machine()), args.out_dir / 'results.json')
    plot_inputs(first, args.out_dir / 'preactivations.png')


if __name__ == '__main__':
    run_tool(main)
