"""The configs of the tutorials build the models that they promise."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from kat_mm import checks

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    'task, num_classes',
    [('classification', 2), ('segmentation', 3), ('detection', 2)],
)
def test_the_config_of_a_tutorial_builds_its_model(task, num_classes, tmp_path, quick_build):
    page = (ROOT / f'docs/tutorials/{task}.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', page, re.S)
    (name,) = re.findall(r"_base_ = '(.*?)'", code)
    path = tmp_path / 'config.py'
    path.write_text(code.replace(name, str(ROOT / name)))
    cfg = Config.fromfile(path)
    checks.check_config(cfg, ())  # no misspelt key
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == cfg.data_root
        assert len(dataset.metainfo.classes) == num_classes
    model = checks.build_model(cfg)
    heads = dict(
        classification=lambda: model.head.num_classes,
        segmentation=lambda: model.decode_head.num_classes,
        detection=lambda: model.roi_head.bbox_head.num_classes,
    )
    assert heads[task]() == num_classes
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('kat_')
