"""Fit a rational function P(x) / Q(x) to an activation function and draw the fit."""

import argparse
import io
import json
import re
from pathlib import Path

from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.fits import RationalFit, table
from kat_mm.fits.expressions import compile_expression
from kat_mm.fits.fitter import FUNCTIONS, TABLE_INTERVALS, fit_rational
from kat_mm.whole_files import write_whole


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Fit a rational function to a function of x with the smallest largest error.',
        epilog="example: python tools/fit_rational.py 'x * sigmoid(1.702 * x)' --interval -8 8",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        'function',
        nargs='?',
        help=f'one of {", ".join(FUNCTIONS)}, or a Python expression in x with these and with '
        'the functions of numpy and scipy.special',
    )
    target.add_argument(
        '--all',
        action='store_true',
        help='fit the whole table again that kat_mm comes with, and write it in its place',
    )
    parser.add_argument(
        '--order',
        type=int,
        nargs=2,
        metavar=('M', 'N'),
        help='degrees of P and Q (default: 5 4)',
    )
    parser.add_argument(
        '--interval',
        type=float,
        nargs=2,
        metavar=('LO', 'HI'),
        help='where to fit (default: -3 3)',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='folder for the coefficients (JSON) and the plot (PNG) (default: work_dirs/fits)',
    )
    args = parser.parse_args()
    if args.all and (args.order or args.interval or args.out_dir):
        parser.error('--all takes no other option: order and intervals of the table are fixed')
    return args


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        with write_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}') from error


def to_json(data: dict | list) -> bytes:
    return (json.dumps(data, indent=2) + '\n').encode()


def report(fit: RationalFit) -> None:
    print(f'{fit.name}: order {fit.order}, interval {fit.interval}')
    for letter, start, coefficients in (('a', 0, fit.numerator), ('b', 1, fit.denominator)):
        for i, coefficient in enumerate(coefficients, start):
            print(f'  {letter}{i} = {coefficient!r}')
    print(f'  largest error {fit.max_error:.3e}')


def fit_one(
    expression: str, order: tuple[int, int], interval: tuple[float, float], out_dir: Path
) -> None:
    # Imported here: matplotlib is for those who draw.
    from kat_mm.visualization.rational import plot_rational_fit

    try:
        function = FUNCTIONS.get(expression) or compile_expression(expression)
        fit = fit_rational(expression if expression in FUNCTIONS else function, order, interval)
    except ValueError as error:
        raise UserError(str(error)) from error
    plot = io.BytesIO()
    plot_rational_fit(fit, function).savefig(plot, dpi=150)
    report(fit)
    stem = re.sub(r'\W+', '_', expression).strip('_')
    for suffix, content in (('.json', to_json(fit.to_dict())), ('.png', plot.getvalue())):
        path = out_dir / (stem + suffix)
        write(path, content)
        print(f'wrote {path}')


def fit_all() -> None:
    fits = [fit_rational(name, interval=TABLE_INTERVALS[name]) for name in FUNCTIONS]
    for fit in fits:
        report(fit)
    write(table.TABLE_FILE, to_json([fit.to_dict() for fit in fits]))
    print(f'wrote {table.TABLE_FILE}')


def main() -> None:
    args = parse_args()
    if args.all:
        fit_all()
    else:
        fit_one(
            args.function,
            order=args.order or (5, 4),
            interval=args.interval or (-3.0, 3.0),
            out_dir=args.out_dir or Path('work_dirs/fits'),
        )


if __name__ == '__main__':
    run_tool(main)
