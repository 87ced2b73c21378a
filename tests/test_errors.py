import pytest

from kat_mm.errors import UserError, config_errors


@pytest.mark.parametrize('error', [TypeError, KeyError, AssertionError, FileNotFoundError])
def test_what_fails_while_building_is_a_mistake_in_the_config(error):
    with pytest.raises(UserError, match='the config cannot be built: .*num_heads'):
        with config_errors():
            raise error('num_heads')


def test_bugs_while_building_are_no_users_mistakes():
    with pytest.raises(ZeroDivisionError):
        with config_errors():
            raise ZeroDivisionError


def test_a_part_of_the_config_is_named():
    with pytest.raises(UserError, match='^optim_wrapper cannot be built: TypeError: rate$'):
        with config_errors('optim_wrapper'):
            raise TypeError('rate')
