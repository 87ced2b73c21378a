"""Functions of x from expressions that a user types."""

import ast
import difflib
from collections.abc import Callable

import numpy as np

from kat_mm.fits.fitter import FUNCTIONS

# No attributes, subscripts or lambdas: an expression cannot reach what is not named.
_NODES = (
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


class _FloatOperands(ast.NodeTransformer):
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
        code = compile(_FloatOperands().visit(tree), '<expression>', 'eval')
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'function={_shown(expression)} is neither a known name nor a Python expression: '
            f'{error}'
        ) from None
    names = expression_names()
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
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
