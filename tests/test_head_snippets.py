"""The heads that docs/heads.md gives in a few lines."""

import re
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from test_every_config import TASKS, shrink

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / 'docs/heads.md').read_text().partition('## Another head in a few lines')[2]
# By the first type that each names.
SNIPPETS = {
    re.search(r"type='(\w+)'", block)[1]: block for block in re.findall(r'((?:    .*\n)+)', TEXT)
}


def test_there_are_three():
    assert list(SNIPPETS) == ['SETRUPHead', 'RetinaNet', 'RTMDet']


@pytest.mark.parametrize('name', SNIPPETS)
def test_a_step_reaches_every_weight_of_the_backbone_and_it_predicts(name, tmp_path):
    scope = 'mmseg' if name == 'SETRUPHead' else 'mmdet'
    base = ROOT / f'configs/_base_/models/kat_pyramid_{"seg" if scope == "mmseg" else "det"}.py'
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {str(base)!r}\n\n{textwrap.dedent(SNIPPETS[name])}')
    cfg = Config.fromfile(path)
    cfg.default_scope = scope
    init_default_scope(scope)
    shrink(cfg)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    make_batch, prediction = TASKS[scope]
    data = model.data_preprocessor(make_batch(model, cfg), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    for key, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key
    with torch.no_grad():
        samples = model.eval().test_step(make_batch(model, cfg))
    assert len(samples) == 2 and all(prediction in sample for sample in samples)
