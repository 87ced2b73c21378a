from pathlib import Path

import pytest
from tools_runner import ROOT, run_tool

from kat_mm.sample_data import SampleSettings, make_sample_data

# A model that trains in moments, and few small images.
TINY = """
_base_ = {base!r}

model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
        ),
        img_size=64,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(embed_dim=32),
    decode_head=dict(in_channels=[32] * 4, channels=32),
    auxiliary_head=dict(in_channels=32, channels=32),
)
crop_size = (64, 64)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
sizes = dict(
    RandomResize=dict(scale=(96, 64)),
    Resize=dict(scale=(96, 64)),
    RandomCrop=dict(crop_size=crop_size),
)
[
    transform.update(sizes.get(transform['type'], dict()))
    for transform in train_pipeline + test_pipeline
]
data_root = {data_root!r}
train_dataloader = dict(
    batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=6)
param_scheduler = [dict(type='PolyLR', by_epoch=False, begin=0, end=6)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=6))
"""


@pytest.fixture(scope='session')
def data_root(tmp_path_factory) -> Path:
    """Images and annotations in the layout of ADE20K."""
    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['ade20k'], folder, SampleSettings(12, 5, 96, 64))
    return folder / 'ade' / 'ADEChallengeData2016'


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory, data_root) -> Path:
    """kat_t_upernet_sample.py with a tiny model and few small images."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    base = str(ROOT / 'configs' / 'kat_t_upernet_sample.py')
    path.write_text(TINY.format(base=base, data_root=str(data_root)))
    return path


@pytest.fixture(scope='session')
def trained(tmp_path_factory, tiny_config) -> Path:
    """Work folder of a short run of tools/train.py."""
    work_dir = tmp_path_factory.mktemp('trained')
    result = run_tool('train.py', tiny_config, '--work-dir', work_dir)
    assert result.status == 0, result.stderr
    return work_dir
