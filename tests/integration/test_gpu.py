"""The configs of the three tasks on a GPU, at their own sizes, on sample data in true layouts."""

import numpy as np
import pytest
from tools_runner import ROOT, read_losses, read_scalars, run_tool

from kat_mm.sample_data import SampleSettings, make_sample_data

SPLITS = ('train', 'val', 'test')
ADE20K = 'ade/ADEChallengeData2016'
# Layout, what a run is counted in, what it logs in the end, and what is not the config's.
CONFIGS = {
    'kat_s_upernet_ade20k.py': (
        'ade20k',
        'iters',
        'mIoU',
        [
            *(f'{split}_dataloader.dataset.data_root={{root}}/{ADE20K}' for split in SPLITS),
            'model.backbone.init_cfg.checkpoint=None',
            '--amp',
        ],
    ),
    'kat_s_mask_rcnn_coco.py': (
        'coco',
        'iters',
        'coco/segm_mAP',
        [
            *(f'{split}_dataloader.dataset.data_root={{root}}/coco' for split in SPLITS),
            'val_evaluator.ann_file={root}/coco/annotations/instances_val2017.json',
            'model.backbone.init_cfg.checkpoint=None',
            # Without any detection mmdet's metric reports nothing.
            'model.test_cfg.rcnn.score_thr=0.0',
            '--amp',
        ],
    ),
    'kat_t_in1k.py': (
        'imagenet',
        'epochs',
        'accuracy/top1',
        [
            *(f'{split}_dataloader.dataset.data_root={{root}}/imagenet' for split in SPLITS),
            *(
                f'{split}_dataloader.dataset.metainfo.classes={",".join("abcdefghij")}'
                for split in SPLITS
            ),
            'model.head.num_classes=10',
            'model.data_preprocessor.num_classes=10',
            'train_dataloader.batch_size=8',
        ],
    ),
}


@pytest.mark.gpu
@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_trains_evaluates_and_resumes(name, tmp_path):
    layout, unit, score, options = CONFIGS[name]
    make_sample_data([layout], tmp_path / 'data', SampleSettings(16, 10))
    options = [option.format(root=tmp_path / 'data') for option in options]
    flags = [option for option in options if option.startswith('--')]
    options = [option for option in options if option not in flags]
    options += [
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
    ]

    def train(end, *more):
        result = run_tool(
            'train.py',
            ROOT / 'configs' / name,
            *('--work-dir', tmp_path / 'work', *flags, *more),
            *('--cfg-options', f'train_cfg.max_{unit}={end}', *options),
            timeout=300,
        )
        assert result.status == 0, result.stderr
        return read_losses(tmp_path / 'work')

    losses = train(2)
    resumed = train(4, '--resume')
    assert len(resumed) == 2 * len(losses)
    assert all(np.isfinite(loss) for loss in resumed.values())
    assert {step: resumed[step] for step in losses} == losses
    logged = read_scalars(tmp_path / 'work')
    assert [line['step'] for line in logged if score in line] == [2, 4]
    assert all(line['memory'] > 0 for line in logged if 'loss' in line)
