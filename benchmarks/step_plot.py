"""A plot of steps: what each takes, and inside that what the GPU works."""

from pathlib import Path
from typing import NamedTuple


class Bar(NamedTuple):
    """Milliseconds of a step: its median, the least and the most of its turns; the GPU's work."""

    median: float
    least: float
    most: float
    gpu: float

    @classmethod
    def of(cls, times: dict, gpu_ms: float) -> 'Bar':
        """From what ``timing.spread`` says of the step."""
        return cls(times['median'], times['min'], times['max'], gpu_ms)


def draw_steps(panels: dict[str, dict[str, Bar]], device: str, path: Path) -> None:
    """Write a picture of horizontal bars.

    Args:
        panels: By the title of a panel, by the name of a model.
        device: What the steps were measured on.
        path: The picture to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = dict.fromkeys(name for bars in panels.values() for name in bars)
    rows = -(-len(panels) // 2)
    size = (10, 0.8 + rows * (0.7 + 0.28 * len(names)))
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(rows, 2, sharey=True, squeeze=False).flat
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, bars) in zip(axes, panels.items(), strict=False):
        for name, bar in bars.items():
            spread = [[bar.median - bar.least], [bar.most - bar.median]]
            axis.barh(name, bar.median, 0.7, color='tab:blue', alpha=0.35, xerr=spread)
            # The work of the GPU may be more than the step takes where kernels run side by side.
            axis.barh(name, bar.gpu, 0.4, color='tab:blue')
            axis.text(bar.most, name, f'  {bar.median:.0f}', va='center', fontsize=8)
        axis.margins(x=0.12)
        axis.set(xlabel=title, xlim=(0, None))
        axis.grid(axis='x', alpha=0.3)
    axes[0].invert_yaxis()
    handles = [
        Patch(color='tab:blue', alpha=0.35, label='the step (line: least and most)'),
        Patch(color='tab:blue', label="the GPU's work in it"),
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=2, frameon=False, fontsize=8)
    figure.suptitle(device, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f'plot: {path}')
