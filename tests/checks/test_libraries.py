import pytest
from mmengine.config import Config

from kat_mm.checks.libraries import needs_mmdet
from kat_mm.engine.configs import find_config


@pytest.mark.parametrize(
    'name, expected',
    [
        ('kat_t_in1k', False),
        ('kat_s_upernet_ade20k', False),
        ('kat_s_mask_rcnn_coco', True),
        ('kat_s_mask2former_ade20k', True),  # mmseg's segmentor with mmdet's head
        ('kat_s_eomt_ade20k', True),
    ],
)
def test_configs_that_take_parts_from_mmdet_need_the_operators_of_mmcv(name, expected):
    assert needs_mmdet(Config.fromfile(find_config(name))) is expected
