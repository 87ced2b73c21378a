"""Plots of rational functions."""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kat_mm.errors import UserError
from kat_mm.fits import RationalFit, get_fit
from kat_mm.fits.fitter import evaluate_fit
from kat_mm.layers import GroupRational
from kat_mm.ops import group_rational
from kat_mm.visualization.activations import PreActivations


def plot_rational_fit(fit: RationalFit, function: Callable[[np.ndarray], np.ndarray]):
    """Draw a fit over the exact function, and its error below.

    Both are drawn to half the interval's width beyond its ends, to show what becomes of the fit
    there. The fitted interval is shaded.

    Args:
        fit: The fit.
        function: The exact function, from a float64 array ``(N,)`` to ``(N,)``.

    Returns:
        The matplotlib figure.
    """
    # Figure and not pyplot: needs no display, and leaves no figure open.
    from matplotlib.figure import Figure

    lo, hi = fit.interval
    margin = (hi - lo) / 2
    x = np.linspace(lo - margin, hi + margin, 4001)
    with np.errstate(all='ignore'):
        exact = np.asarray(function(x), dtype=np.float64)
        fitted = evaluate_fit(fit, x)
        error = np.abs(fitted - exact)

    figure = Figure(figsize=(7, 6), layout='constrained')
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    top.plot(x, exact, color='0.6', linewidth=4, label=f'exact: {fit.name}')
    top.plot(x, fitted, color='C3', linewidth=1.5, label='fit: P(x) / Q(x)')
    # Far outside either curve may be huge: the values in the interval set the scale.
    inside = exact[(x >= lo) & (x <= hi)]
    room = 0.5 * np.ptp(inside) or 1.0
    top.set_ylim(inside.min() - room, inside.max() + room)
    top.set_title(
        f'Rational fit of order ({fit.order[0]}, {fit.order[1]}) on [{lo:g}, {hi:g}]: '
        f'largest error {fit.max_error:.2g}'
    )
    top.set_ylabel('F(x)')

    # A logarithm shows both the ripple inside and the growth outside; zeros need a floor.
    floor = max(1e-2 * fit.max_error, 1e-17)
    bottom.semilogy(x, np.maximum(error, floor), color='C3', linewidth=1)
    largest_error = bottom.axhline(
        max(fit.max_error, floor), color='k', linewidth=1, linestyle='--', label='largest error'
    )
    bottom.set_ylim(bottom=floor)
    bottom.set_ylabel('|F(x) - exact|')
    bottom.set_xlabel('x')

    for axes in (top, bottom):
        axes.axvspan(lo, hi, color='C0', alpha=0.1, linewidth=0, label='fitted interval')
        axes.grid(alpha=0.3)
    top.legend(fontsize='small')
    bottom.legend(handles=[largest_error], fontsize='small')
    bottom.set_xlim(x[0], x[-1])
    return figure


def starting_fits(model: nn.Module) -> dict[str, RationalFit]:
    """Name of each rational function of a model to the fit that it started as."""
    return {name: m.fit for name, m in model.named_modules() if isinstance(m, GroupRational)}


def plot_rationals(
    state: dict[str, Tensor],
    inputs: PreActivations | None = None,
    starts: dict[str, RationalFit] | None = None,
):
    """Draw every rational function of a model: act1 and act2 of each block, by group.

    Each group has a colour, and the function that all of them started as is dashed.

    Behind the functions, in grey, is the histogram of what goes into them, where it is known; it
    also sets the range: all but a thousandth of the inputs on each side. Otherwise that is [-3, 3].

    Args:
        state: State dict of a model with a KAT.
        inputs: What went into the model's activations.
        starts: Of :func:`starting_fits`. Default: the published start, identity and swish.

    Returns:
        The matplotlib figure: for each block two panels, one above the other.

    Raises:
        UserError: The model has no rational functions.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [key.removesuffix('.weight_numerator') for key in state if '.weight_numerator' in key]
    if not names:
        raise UserError('there are no rational functions to draw; a ViT has none')
    # Blocks in rows of six, each with a row for act1 and one for act2.
    num_blocks = (len(names) + 1) // 2
    columns = min(num_blocks, 6)
    rows = 2 * -(-num_blocks // columns)
    figure = Figure(figsize=(max(2.6 * columns, 5), 2.1 * rows + 0.7), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    published = dict(act1=get_fit('identity'), act2=get_fit('swish'))
    most = max(len(state[f'{name}.weight_denominator']) for name in names)
    colors = colormaps['turbo'](np.linspace(0.05, 0.95, most))
    for index, name in enumerate(names):
        block, act = divmod(index, 2)
        row, column = divmod(block, columns)
        axis = axes[2 * row + act][column]
        lo, hi = -3.0, 3.0
        if inputs is not None:
            lo, hi = inputs.quantile(name, 0.001), inputs.quantile(name, 0.999)
            behind = axis.twinx()
            counts = inputs.counts[name].sum(axis=0)
            behind.fill_between(inputs.centers(), counts, step='mid', color='0.85', linewidth=0)
            behind.set(yticks=[], ylim=(0, None))
            axis.set_zorder(behind.get_zorder() + 1)
            axis.patch.set_visible(False)
        x = torch.linspace(lo, hi, 301, dtype=torch.float64)
        numerator, denominator = (
            state[f'{name}.weight_{part}'].detach().double().cpu()
            for part in ('numerator', 'denominator')
        )
        groups = max(len(numerator), len(denominator))
        y = group_rational(x[:, None].expand(-1, groups).contiguous(), numerator, denominator)
        number, part = re.search(r'(\d+)\.mlp\.(act[12])', name).groups()
        for group in range(groups):
            axis.plot(x, y[:, group], linewidth=1, color=colors[group % most])
        start = starts[name] if starts else published[part]
        axis.plot(x, evaluate_fit(start, x.numpy()), linewidth=1.2, color='k', linestyle='--')
        axis.set_xlim(lo, hi)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize='x-small')
        axis.set_title(f'block {number}, {part}', fontsize='small')
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    figure.supxlabel('input x of the activation')
    figure.supylabel('F(x)')
    handles = [Line2D([], [], color='k', linestyle='--', label='start')]
    # Of many groups some, from the first to the last.
    named = np.linspace(0, most - 1, min(most, 16)).round().astype(int)
    handles += [Line2D([], [], color=colors[g], label=f'group {g}') for g in named]
    if inputs is not None:
        handles.append(Patch(color='0.85', label='how often x occurs'))
    figure.legend(
        handles=handles, loc='outside upper center', ncols=min(len(handles), 10), fontsize='small'
    )
    return figure


def figure_to_image(figure) -> np.ndarray:
    """A matplotlib figure as an RGB image, (H, W, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
