import numpy as np
import pytest

from kat_mm.fits.expressions import compile_expression


def test_an_expression_is_a_function_of_x():
    x = np.linspace(-2, 2, 9)
    function = compile_expression('where(x > 0, x, 0.2 * x) + erf(0)')
    np.testing.assert_array_equal(function(x), np.where(x > 0, x, 0.2 * x))


@pytest.mark.parametrize('expression', ['x.T', 'x[0]', '(lambda: x)()', '__import__("os")', 'y'])
def test_an_expression_cannot_reach_what_is_not_named(expression):
    with pytest.raises(ValueError, match='function='):
        compile_expression(expression)
