import pytest

from kat_mm import checks
from kat_mm.errors import UserError


@pytest.mark.parametrize('given', [None, 1, 2, (1, 5)])
def test_numbers_that_are_large_enough_pass(given):
    checks.check_whole('--size', given, 1)


@pytest.mark.parametrize(
    'given, words', [(0, '0 must be a whole number'), ((3, -1), '3 -1 must be whole numbers')]
)
def test_numbers_that_are_too_small_are_refused(given, words):
    with pytest.raises(UserError, match=f'^--size {words} from 1$'):
        checks.check_whole('--size', given, 1)
