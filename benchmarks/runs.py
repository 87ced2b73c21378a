"""What the comparisons of trained models read from the work folders of tools/train.py."""

import json
import statistics
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from kat_mm.engine.launch import build_runner
from kat_mm.errors import UserError


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


def load_runner(work_dir: Path) -> Runner:
    """A runner with the weights of the last checkpoint."""
    checkpoint = find_latest_checkpoint(str(work_dir))
    if checkpoint is None:
        raise UserError(f'{work_dir} holds no checkpoint: its training did not get that far')
    (config,) = work_dir.glob('*.py')
    cfg = Config.fromfile(config)
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


def images_per_second(scalars: list[dict], batch_size: int) -> float | None:
    """Median over the log; the first 100 iterations hold compilation and autotuning."""
    seconds = [entry['time'] for entry in train_entries(scalars) if entry['step'] > 100]
    return round(batch_size / statistics.median(seconds), 1) if seconds else None


def plot_curves(results: dict[str, dict], panels: list[tuple[str, str, str]], path: Path) -> None:
    """Curves of all runs, by title: in each panel those of a key, with labels of both axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout='constrained')
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (key, xlabel, ylabel) in zip(axes, panels, strict=True):
        for title, result in results.items():
            axis.plot(*zip(*result[key], strict=True), label=title)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
