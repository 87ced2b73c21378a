import pytest
from mmengine.config import Config

from kat_mm import checks
from kat_mm.checks.arguments import check_arguments
from kat_mm.errors import UserError


def test_a_misspelt_key_gets_a_suggestion_and_the_known_keys():
    backbone = dict(type='KAT', out_indicies=(2, 5))
    with pytest.raises(UserError) as error:
        check_arguments(backbone, 'model.backbone')
    message = str(error.value)
    assert 'model.backbone.out_indicies is not an argument of KAT' in message
    assert 'did you mean out_indices?' in message
    assert 'drop_path_rate' in message


def test_keys_of_the_parts_of_the_backbone_are_checked_too():
    backbone = dict(type='KAT', ffn_cfg=dict(type='GRKAN', num_group=4))
    with pytest.raises(UserError, match='model.backbone.ffn_cfg.num_group .*num_groups'):
        check_arguments(backbone, 'model.backbone')


def test_right_keys_and_other_projects_backbones_pass():
    check_arguments(dict(type='KAT', ffn_cfg=dict(type='MLP', bias=False)), 'here')
    check_arguments(dict(type='mmseg.ResNet', anything=1), 'here')
    check_arguments(dict(), 'here')


def test_a_misspelt_key_is_found_wherever_it_stands():
    cfg = Config(dict(model=dict(type='mmseg.EncoderDecoder', parts=[dict(type='KAT', arhc='x')])))
    with pytest.raises(UserError, match=r'model\.parts\[0\]\.arhc .*did you mean arch'):
        checks.check_config(cfg, ())
