import pytest
from mmengine.config import Config

from kat_mm import checks
from kat_mm.errors import UserError


@pytest.mark.parametrize('error', [TypeError, KeyError, AssertionError, FileNotFoundError])
def test_what_fails_while_building_is_a_mistake_in_the_config(error):
    with pytest.raises(UserError, match='the config cannot be built: .*num_heads'):
        with checks.config_errors():
            raise error('num_heads')


def test_bugs_while_building_are_no_users_mistakes():
    with pytest.raises(ZeroDivisionError):
        with checks.config_errors():
            raise ZeroDivisionError


def test_the_model_is_built_without_using_up_its_config():
    model = dict(type='KAT', arch='tiny', img_size=32, out_indices=0, ffn_cfg=dict(type='MLP'))
    cfg = Config(dict(model=model))
    assert len(checks.build_model(cfg).blocks) == 1
    assert cfg.model == model


def test_a_model_that_cannot_be_built_is_a_users_mistake():
    with pytest.raises(UserError, match="the config cannot be built: .*arch='huge' is unknown"):
        checks.build_model(Config(dict(model=dict(type='KAT', arch='huge'))))
