"""What the comparisons of trained models read from the work folders of tools/train.py."""

import json
import re
import statistics
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from kat_mm.engine.launch import build_runner
from kat_mm.errors import UserError

# Title of a run of which there are others with other seeds.
WITH_SEED = '{title}, seed {seed}'
# Of a curve whose points are marked: a line alone would look like more.
FEW_POINTS = 10
# What figures were called in results of earlier versions.
RENAMED = {
    'AP_curve': 'bbox_mAP_curve',
    'published_top1_after_100_epochs': 'published_top1',
}


def read_runs(path: Path, titles: dict[str, str]) -> dict[str, dict]:
    """Figures of runs by title from a results.json, also of earlier versions; none without one.

    Earlier ones held runs beside the machine, by title or by work folder, or by folder and seed.
    """
    content = json.loads(path.read_text()) if path.exists() else {}
    for other in ('machine', 'environment'):
        content.pop(other, None)
    runs = {}
    for name, figures in content.get('runs', content).items():
        title = titles.get(name, name)
        if all(key.isdecimal() for key in figures):
            for seed, of_seed in figures.items():
                runs[WITH_SEED.format(title=title, seed=seed)] = of_seed
        else:
            runs[title] = figures
    return {
        title: {RENAMED.get(key, key): value for key, value in figures.items()}
        for title, figures in runs.items()
    }


def short_name(key: str) -> str:
    """What a metric of the log is called in results."""
    return key.rpartition('/')[2]


def percent(key: str, value: float) -> float:
    """A metric of the log; mmdet's are fractions of 1."""
    return round((100 if key.startswith('coco/') else 1) * float(value), 2)


def summarize(work_dir: Path, metric: str, final: dict | None = None) -> dict:
    """Figures of a run: its scores, memory and curves.

    Args:
        work_dir: Of tools/train.py.
        metric: Key in the log, of the curve.
        final: Scores of the last checkpoint. Default: the last that were logged.
    """
    scalars = read_scalars(work_dir)
    train = train_entries(scalars)
    evaluations = [entry for entry in scalars if metric in entry]
    if final is None:
        if not evaluations:
            raise UserError(f'{work_dir} was never evaluated; let its run end')
        family = metric.rpartition('/')[0]
        final = {
            key: value
            for key, value in evaluations[-1].items()
            if key == metric or (family and key.startswith(family + '/'))
        }
    curve = [[entry['step'], percent(metric, entry[metric])] for entry in evaluations]
    return dict(
        iterations=train[-1]['step'],
        **{short_name(key): percent(key, value) for key, value in final.items()},
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in train),
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in train],
        **{short_name(metric) + '_curve': curve},
    )


def read_scalars(work_dir: Path) -> list[dict]:
    """What a run logged; where it was resumed, what it did again replaces what it had logged."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise UserError(f'{work_dir} holds no training log; it must be that of tools/train.py')
    entries = {}
    for line in (line for file in files for line in file.read_text().splitlines()):
        entry = json.loads(line)
        entries['loss' in entry, entry['step']] = entry
    return list(entries.values())


def load_config(work_dir: Path) -> Config:
    """What a run was trained by."""
    (path,) = work_dir.glob('*.py')
    return Config.fromfile(path)


def load_runner(work_dir: Path) -> Runner:
    """A runner with the weights of the last checkpoint."""
    checkpoint = find_latest_checkpoint(str(work_dir))
    if checkpoint is None:
        raise UserError(f'{work_dir} holds no checkpoint: its training did not get that far')
    cfg = load_config(work_dir)
    cfg.update(
        launcher='none',
        resume=False,
        load_from=checkpoint,
        work_dir=str(work_dir / 'test'),
        log_level='ERROR',
        experiment_name=f'test_{work_dir.name}',
    )
    runner = build_runner(cfg)
    runner.load_or_resume()
    return runner


def train_entries(scalars: list[dict]) -> list[dict]:
    entries = [entry for entry in scalars if 'loss' in entry]
    if not entries:
        raise UserError(
            'the run logged no iteration: train more than default_hooks.logger.interval of them'
        )
    return entries


def images_per_second(scalars: list[dict], batch_size: int) -> float | None:
    """Median over the log; the first 100 iterations hold compilation and autotuning."""
    seconds = [entry['time'] for entry in train_entries(scalars) if entry['step'] > 100]
    return round(batch_size / statistics.median(seconds), 1) if seconds else None


def plot_curves(results: dict[str, dict], panels: list[tuple[str, str, str]], path: Path) -> None:
    """Curves of all runs, by title: in each panel those of a key, with labels of both axes.

    Runs that differ in their seed alone are one line, the mean, with a band from least to most.
    """
    import numpy as np
    from matplotlib.figure import Figure

    groups = {}
    for title, result in results.items():
        groups.setdefault(re.sub(r', seed \d+$', '', title), []).append(result)
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout='constrained')
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (key, xlabel, ylabel) in zip(axes, panels, strict=True):
        for title, runs in groups.items():
            curves = [run[key] for run in runs if run.get(key)]
            if not curves:
                continue
            length = min(map(len, curves))
            x = [step for step, _ in curves[0][:length]]
            y = np.array([[value for _, value in curve[:length]] for curve in curves])
            label = title if len(curves) == 1 else f'{title} ({len(curves)} seeds)'
            marker = 'o' if length <= FEW_POINTS else None
            (line,) = axis.plot(x, y.mean(axis=0), label=label, marker=marker)
            if len(curves) > 1:
                axis.fill_between(x, y.min(0), y.max(0), alpha=0.2, color=line.get_color())
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.3)
        axis.legend(fontsize='small')
    figure.savefig(path, dpi=120)
