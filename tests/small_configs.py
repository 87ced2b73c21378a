"""The project's configs, and each at a small size."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from kat_mm.backbones.archs import resolve_arch

CONFIGS = sorted((Path(__file__).resolve().parents[1] / 'configs').glob('*.py'))
SIZE = 64


def load(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return cfg


def shrink(cfg):
    """Few blocks, narrow feed-forwards and small images; widths, and so the heads, stay."""
    backbone = cfg.model.backbone
    backbone = backbone.get('module', backbone)  # of adapters
    head = cfg.model.get('panoptic_head') or cfg.model.get('decode_head') or {}
    outputs = backbone.get('out_indices', -1)
    outputs = 1 if isinstance(outputs, int) else len(outputs)
    arch = dict(resolve_arch(backbone.get('arch', 'tiny')))
    # A head that runs blocks itself leaves one to the backbone.
    blocks = max(2, outputs, head.get('num_blocks', 0) + 1)
    arch.update(num_layers=blocks, feedforward_channels=arch['embed_dims'])
    last = arch['num_layers'] - 1
    # Two images may well both lose a block to drop path.
    patch = backbone.get('patch_size', 16)
    size = -(-SIZE // patch) * patch
    backbone.update(arch=arch, img_size=size, drop_path_rate=0.0, init_cfg=None)
    if backbone.get('frozen_stages', -1) > 0:  # all blocks
        backbone.frozen_stages = arch['num_layers']
    backbone.out_indices = tuple(range(arch['num_layers'] - outputs, arch['num_layers']))
    if backbone.get('global_attn_indices'):
        backbone.global_attn_indices = (last,)
    if cfg.default_scope == 'mmdet':
        cfg.model.data_preprocessor.batch_augments = None
        if 'num_queries' in cfg.model:  # chosen among the tokens
            cfg.model.num_queries = 10
        for part, key in (
            (cfg.model.get('train_cfg'), 'rpn_proposal'),
            (cfg.model.test_cfg, 'rpn'),
        ):
            if part and key in part:
                part[key].max_per_img = 30
