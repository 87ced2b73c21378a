"""Plots of rational functions."""

from collections.abc import Callable
from os import PathLike
from typing import BinaryIO

import numpy as np

from kat_mm.ops.coefficients import RationalFit, evaluate


def plot_rational_fit(
    fit: RationalFit,
    function: Callable[[np.ndarray], np.ndarray],
    out_file: str | PathLike | BinaryIO,
) -> None:
    """Draw a fit over the exact function, and its error below, and save the figure.

    Both are drawn to half the interval's width beyond its ends, to show what becomes of the fit
    there. The fitted interval is shaded.

    Args:
        fit: The fit.
        function: The exact function, from a float64 array ``(N,)`` to ``(N,)``.
        out_file: Path, or binary file, which gets a PNG.
    """
    # Figure and not pyplot: needs no display, and leaves no figure open.
    from matplotlib.figure import Figure

    lo, hi = fit.interval
    margin = (hi - lo) / 2
    x = np.linspace(lo - margin, hi + margin, 4001)
    with np.errstate(all='ignore'):
        exact = np.asarray(function(x), dtype=np.float64)
        fitted = evaluate(fit, x)
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
    figure.savefig(out_file, dpi=150)
