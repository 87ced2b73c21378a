"""What every config starts from, and that it fits."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from kat_mm.backbones import KAT, pretrained
from kat_mm.errors import UserError
from kat_mm.layers import resize_pos_embed
from kat_mm.weights import PUBLISHED, find_weights

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


@pytest.fixture(scope='module')
def starts() -> dict[str, tuple[str | None, str | None]]:
    """The checkpoint of the backbone, and the one of the whole model, of every config."""
    found = {}
    for path in CONFIGS.glob('*.py'):
        cfg = Config.fromfile(path)
        backbone = cfg.model.backbone.get('module', cfg.model.backbone)  # of adapters
        backbone = (backbone.get('init_cfg') or {}).get('checkpoint')
        found[path.stem] = backbone, cfg.get('load_from')
    return found


def test_dense_configs_start_from_published_weights_of_their_size_and_kind(starts):
    dense = r'(kat|vit)_([tsb])_\w*(coco|ade20k|cityscapes|voc)'
    for name, (start, _) in starts.items():
        known = re.fullmatch(dense, name)
        foundation = re.match(r'(dinov2|dinov3|mae)_b_', name)
        if foundation:
            # Its authors' EoMT has registers.
            registers = '_reg' if '_eomt_' in name and foundation[1] == 'dinov2' else ''
            assert start == foundation[0].removesuffix('_') + registers, name
        elif known and 'karat' not in name:  # whose operators nobody published
            kind = {'kat': 'kat', 'vit': 'deit'}[known[1]]
            assert start == f'{kind}_{known[2]}_in1k', name
        else:
            assert start is None, name
    assert sum(start is not None for start, _ in starts.values()) >= 54 + 21


def test_every_name_in_the_configs_is_known(starts):
    named = {name for pair in starts.values() for name in pair if name and '/' not in name}
    # DINOv3 is given to those who accept its licence, which its name tells.
    assert len(named) >= 13 and named <= {*PUBLISHED, 'dinov3_b'}
    with pytest.raises(UserError, match='dinov3_b cannot be downloaded.*accept its licence'):
        find_weights('dinov3_b')


@pytest.mark.parametrize('name', ['upernet_ade20k', 'mask_rcnn_coco'])
@pytest.mark.parametrize('kind', ['kat', 'vit'])
def test_a_published_classifier_fills_all_that_it_has(kind, name, monkeypatch):
    cfg = Config.fromfile(CONFIGS / f'{kind}_t_{name}.py').model.backbone
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=generator)
        for key, value in KAT('tiny', ffn_cfg=cfg.ffn_cfg).state_dict().items()
    }
    state.update({'head.weight': torch.ones(1000, 192), 'head.bias': torch.ones(1000)})
    asked = []
    # As DeiT's files are nested.
    monkeypatch.setattr(
        pretrained, 'read_weights', lambda name: asked.append(name) or dict(model=state)
    )
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    assert asked == [cfg.init_cfg.checkpoint]
    for key, value in backbone.state_dict().items():
        if 'rel_pos' in key:
            assert not value.any()
        elif key != 'pos_embed':
            assert torch.equal(value, state[key]), key
    extra = backbone.num_extra_tokens
    position = state['pos_embed'] if extra else state['pos_embed'][:, 1:]
    resized = resize_pos_embed(position, (14, 14), backbone.grid_size, extra)
    assert torch.equal(backbone.pos_embed, resized)
