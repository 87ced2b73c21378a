"""Fit a rational function P(x) / Q(x) to an activation function and draw the fit."""

import argparse
import ast
import contextlib
import difflib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kat_mm.fits import RationalFit, table
from kat_mm.fits.fitter import FUNCTIONS, TABLE_INTERVALS, fit_rational

# No attributes, subscripts or lambdas: an expression cannot reach what is not named.
EXPRESSION_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.Call,
    ast.Name,
    ast.Constant,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Load,
)


def parse_args():
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


class FloatOperands(ast.NodeTransformer):
    """Makes numbers in operations floats: Python's whole numbers may grow without an end."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.BinOp:
        self.generic_visit(node)
        node.left, node.right = self._to_float(node.left), self._to_float(node.right)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.UnaryOp:
        self.generic_visit(node)
        node.operand = self._to_float(node.operand)
        return node

    def _to_float(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return ast.copy_location(ast.Constant(float(node.value)), node)
        return node


def _shown(expression: str) -> str:
    return repr(expression if len(expression) <= 80 else f'{expression[:80]}...')


def compile_expression(expression: str) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function of x from an expression of numbers, operators and known functions.

    Raises:
        ValueError: If it is not such an expression.
    """
    try:
        tree = ast.parse(expression, mode='eval')
        code = compile(FloatOperands().visit(tree), '<expression>', 'eval')
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'function={_shown(expression)} is neither a known name nor a Python expression: '
            f'{error}'
        ) from None
    names = expression_names()
    for node in ast.walk(tree):
        if not isinstance(node, EXPRESSION_NODES):
            raise ValueError(
                f'function={expression!r} has {type(node).__name__}: it may only have numbers, '
                'operators, comparisons and calls by plain name, tanh(x) and not np.tanh(x)'
            )
        if isinstance(node, ast.Name) and node.id not in {'x', *names}:
            nearest = difflib.get_close_matches(node.id, names, n=1)
            hint = f'; did you mean {nearest[0]!r}?' if nearest else ''
            raise ValueError(
                f'function={expression!r} has {node.id!r}, which is neither x, nor one of '
                f'{", ".join(FUNCTIONS)}, nor an elementwise function of numpy or '
                f'scipy.special{hint}'
            )

    def function(x):
        try:
            return eval(code, {'__builtins__': {}}, {**names, 'x': x})
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ValueError(f'function={expression!r} cannot be evaluated: {error}') from None

    function.__name__ = expression
    return function


def expression_names() -> dict:
    """What an expression may name besides x. Where numpy and scipy agree on a name, numpy's."""
    from scipy import special

    ufuncs = {
        name: value
        for module in (special, np)
        for name, value in vars(module).items()
        if isinstance(value, np.ufunc)
    }
    return {**ufuncs, 'where': np.where, 'clip': np.clip, 'pi': np.pi, 'e': np.e, **FUNCTIONS}


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(f'cannot write {path}: {error.strerror}') from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def to_json(data) -> bytes:
    return (json.dumps(data, indent=2) + '\n').encode()


def report(fit: RationalFit) -> None:
    print(f'{fit.name}: order {fit.order}, interval {fit.interval}')
    for letter, start, coefficients in (('a', 0, fit.numerator), ('b', 1, fit.denominator)):
        for i, coefficient in enumerate(coefficients, start):
            print(f'  {letter}{i} = {coefficient!r}')
    print(f'  largest error {fit.max_error:.3e}')


def fit_one(expression: str, order, interval, out_dir: Path) -> None:
    from kat_mm.visualization.rational import plot_rational_fit

    function = FUNCTIONS.get(expression) or compile_expression(expression)
    fit = fit_rational(expression if expression in FUNCTIONS else function, order, interval)
    plot = io.BytesIO()
    plot_rational_fit(fit, function, plot)
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


def main():
    args = parse_args()
    try:
        if args.all:
            fit_all()
        else:
            fit_one(
                args.function,
                order=args.order or (5, 4),
                interval=args.interval or (-3.0, 3.0),
                out_dir=args.out_dir or Path('work_dirs/fits'),
            )
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
