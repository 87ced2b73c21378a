"""Configs by name, here and in mmengine's own words."""

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from kat_mm.backbones import KAT
from kat_mm.engine.configs import config_root, find_config, read_config
from kat_mm.errors import UserError


def test_a_name_is_a_config_of_this_project_and_a_file_is_itself(tmp_path):
    known = find_config('kat_s_upernet_ade20k')
    assert known == config_root() / 'configs' / 'kat_s_upernet_ade20k.py'
    assert find_config('kat_s_upernet_ade20k.py') == known
    own = tmp_path / 'kat_s_upernet_ade20k.py'
    own.write_text('a = 1')
    assert find_config(own) == own


def test_a_name_that_is_none_has_the_nearest_beside_it():
    with pytest.raises(
        UserError, match='kat_s_uppernet_ade20k does not exist; did you mean kat_s_'
    ):
        find_config('kat_s_uppernet_ade20k')
    with pytest.raises(UserError, match='nowhere/kat.py does not exist$'):
        find_config('nowhere/kat.py')


def test_a_config_that_does_not_parse_is_named(tmp_path):
    (tmp_path / 'own.py').write_text('a = (')
    with pytest.raises(UserError, match='own.py cannot be read'):
        read_config(tmp_path / 'own.py')


@pytest.mark.parametrize(
    'base', ['kat_mm::kat_t_upernet_sample.py', 'kat_mm::kat_t_upernet_sample']
)
def test_a_config_elsewhere_stands_on_one_of_this_project(tmp_path, base, quick_build):
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = '{base}'\nmodel = dict(backbone=dict(drop_path_rate=0.2))")
    cfg = Config.fromfile(own)
    expected = Config.fromfile(find_config('kat_t_upernet_sample'))
    expected.model.backbone.drop_path_rate = 0.2
    assert cfg.to_dict() == expected.to_dict()
    init_default_scope(cfg.default_scope)
    assert isinstance(MODELS.build(cfg.model).backbone, KAT)


def test_parts_of_configs_are_found_too_and_other_packages_as_before(tmp_path):
    own = tmp_path / 'own.py'
    runtime = '_base_/default_runtime.py'
    own.write_text(f"_base_ = ['kat_mm::{runtime}', 'mmdet::{runtime}']")
    with pytest.raises(KeyError, match='Duplicate key'):  # both were read
        Config.fromfile(own)
    own.write_text("_base_ = 'kat_mm::kat_x.py'")
    with pytest.raises(UserError, match='config kat_x does not exist'):
        Config.fromfile(own)


def test_mmengine_gets_a_config_by_its_name():
    if not (config_root() / 'model-index.yml').is_file() or config_root().name != '.mim':
        pytest.skip('needs an installation, which has kat_mm/.mim')
    cfg = get_config('kat_mm::kat_s_in1k.py', pretrained=True)
    assert cfg.model.backbone.type == 'KAT'
    assert cfg.model_path.startswith('https://github.com/Adamdad/kat/')
