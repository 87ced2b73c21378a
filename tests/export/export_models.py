"""Small models of the project's configs, with random weights."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def classifier_config(ffn: str = 'GRKAN') -> Config:
    cfg = Config.fromfile(CONFIGS / 'kat_t_in1k_sample.py')
    cfg.model.backbone.update(arch=ARCH, out_indices=(1,), ffn_cfg=dict(type=ffn))
    cfg.model.head.update(in_channels=32)
    return cfg


def segmenter_config() -> Config:
    cfg = Config.fromfile(CONFIGS / 'kat_t_upernet_camvid.py')
    cfg.model.backbone.update(arch={**ARCH, 'num_layers': 4}, img_size=64, out_indices=(0, 1, 2, 3))
    cfg.model.data_preprocessor.size = (64, 80)
    cfg.model.neck.embed_dim = 32
    cfg.model.decode_head.update(in_channels=[32] * 4, channels=16)
    cfg.model.auxiliary_head.update(in_channels=32, channels=16)
    return cfg


def detector_config(kind: str) -> Config:
    name = 'kat_t_mask_rcnn_sample' if kind == 'mask' else 'kat_s_cascade_mask_rcnn_coco'
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.backbone.update(
        arch=ARCH, img_size=64, out_indices=(1,), global_attn_indices=(1,), window_size=3
    )
    cfg.model.neck.update(in_channels=32, out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    roi = cfg.model.roi_head
    for part in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        part.out_channels = 16
    for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
        head.update(in_channels=16, fc_out_channels=32, num_classes=4)
        if 'conv_out_channels' in head:
            head.conv_out_channels = 16
    roi.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=4)
    cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    cfg.model.test_cfg.rcnn.update(score_thr=0.01, max_per_img=10)
    return cfg


def random_model(cfg: Config) -> torch.nn.Module:
    """The model of a config, whose norms and biases are not their starts."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter.data, 1, 0.3)
    return model.eval()
