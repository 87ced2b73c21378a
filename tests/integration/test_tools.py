import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tools_runner import ROOT, read_losses, read_scalars, run_tool

# kat_s_upernet_ade20k.py itself; only the sizes are smaller.
REDUCED = [
    'model.backbone.init_cfg.checkpoint=None',
    'model.backbone.arch._delete_=True',
    'model.backbone.arch.embed_dims=32',
    'model.backbone.arch.num_layers=12',
    'model.backbone.arch.num_heads=2',
    'model.backbone.arch.feedforward_channels=64',
    'model.backbone.img_size=64',
    'model.data_preprocessor.size=(64,64)',
    'model.neck.embed_dim=32',
    'model.decode_head.in_channels=[32,32,32,32]',
    'model.decode_head.channels=16',
    'model.auxiliary_head.in_channels=32',
    'model.auxiliary_head.channels=16',
    'model.test_cfg.crop_size=(64,64)',
    'model.test_cfg.stride=(43,43)',
    'train_dataloader.num_workers=2',
    'train_cfg.max_iters=2',
    'default_hooks.logger.interval=1',
]


ADE20K = ROOT / 'configs' / 'kat_s_upernet_ade20k.py'
SIZES = dict(RandomResize='scale=(256,64)', RandomCrop='crop_size=(64,64)', Resize='scale=(256,64)')


def reduced(data_root):
    options = ['--cfg-options', *REDUCED]
    cfg = Config.fromfile(ADE20K)
    for split in ('train', 'val', 'test'):
        dataset = f'{split}_dataloader.dataset'
        options.append(f'{dataset}.data_root={data_root}')
        for index, transform in enumerate(cfg[f'{split}_dataloader'].dataset.pipeline):
            if transform.type in SIZES:
                options.append(f'{dataset}.pipeline.{index}.{SIZES[transform.type]}')
    return options


@pytest.fixture(scope='module')
def trained_ade20k(tmp_path_factory, data_root):
    work_dir = tmp_path_factory.mktemp('ade20k')
    result = run_tool('train.py', ADE20K, '--work-dir', work_dir, *reduced(data_root))
    assert result.status == 0, result.stderr
    return work_dir


@pytest.fixture(scope='module')
def tested(tmp_path_factory, tiny_config, trained):
    """Output and folder of tools/test.py with all that it can write."""
    folder = tmp_path_factory.mktemp('tested')
    options = [
        '--work-dir',
        folder / 'work',
        '--out',
        folder / 'out',
        '--show-dir',
        folder / 'show',
    ]
    result = run_tool('test.py', tiny_config, trained / 'iter_6.pth', *options)
    assert result.status == 0, result.stderr
    return result, folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_training_writes_checkpoint_log_config_and_scalars(trained):
    checkpoint = torch.load(trained / 'iter_6.pth', weights_only=False)
    assert {'state_dict', 'optimizer', 'param_schedulers', 'meta'} <= checkpoint.keys()
    assert (trained / 'last_checkpoint').read_text() == str(trained / 'iter_6.pth')
    assert (trained / 'tiny.py').is_file()
    (log,) = trained.glob('*/*.log')
    assert 'Iter(train) [6/6]' in log.read_text()
    losses = read_losses(trained)
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(loss) and loss > 0 for loss in losses.values())
    assert [line['mIoU'] for line in read_scalars(trained) if 'mIoU' in line]


def test_testing_prints_and_saves_the_miou(tested):
    result, folder = tested
    (file,) = (folder / 'work').glob('*/*.json')
    saved = json.loads(file.read_text())
    printed = re.search(r'mIoU: ([\d.]+)', result.stdout)
    assert float(printed[1]) == pytest.approx(saved['mIoU'], abs=0.01)


def test_testing_a_checkpoint_gives_the_miou_that_training_ended_with(tested, trained):
    (file,) = (tested[1] / 'work').glob('*/*.json')
    (during_training,) = [line['mIoU'] for line in read_scalars(trained) if 'mIoU' in line]
    assert json.loads(file.read_text())['mIoU'] == during_training


def test_the_saved_predictions_have_the_saved_miou(tested, data_root):
    # From the label images alone: 12 classes, numbered from 1, as ADE20K numbers its own.
    folder = tested[1]
    classes = [3, 2, 5, 10, 7, 22, 17, 12, 21, 77, 13, 127]
    intersection, union = np.zeros(12), np.zeros(12)
    truths = sorted((data_root / 'annotations' / 'validation').iterdir())
    assert names(folder / 'out') == [path.name for path in truths]
    for path in truths:
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        prediction = cv2.imread(str(folder / 'out' / path.name), cv2.IMREAD_UNCHANGED)
        assert prediction.shape == truth.shape
        known = np.isin(truth, classes)
        for i, label in enumerate(classes):
            predicted, true = (prediction == i + 1) & known, truth == label
            intersection[i] += (predicted & true).sum()
            union[i] += (predicted | true).sum()
    present = union > 0
    miou = 100 * (intersection[present] / union[present]).mean()
    (file,) = (folder / 'work').glob('*/*.json')
    assert json.loads(file.read_text())['mIoU'] == pytest.approx(miou, abs=0.006)


def test_show_dir_gets_a_picture_of_every_image(tested, data_root):
    shown = [path for path in (tested[1] / 'show').rglob('*') if path.is_file()]
    pictures = [path for path in shown if path.suffix in ('.png', '.jpg')]
    expected = [path.stem for path in (data_root / 'images' / 'validation').iterdir()]
    assert len(pictures) == len(expected)
    for stem in expected:
        (path,) = [path for path in pictures if stem in path.name]
        # Truth and prediction, side by side, below titles and above legends.
        height, width, _ = cv2.imread(str(path)).shape
        assert width > 2 * 480 and height > 320


def test_the_ade20k_config_trains_on_a_folder_laid_out_as_ade20k(trained_ade20k):
    assert list(read_losses(trained_ade20k)) == [1, 2]
    assert (trained_ade20k / 'iter_2.pth').is_file()


def test_test_time_augmentation_evaluates_flips_and_scales(trained_ade20k, data_root, tmp_path):
    scales = [
        f'tta_pipeline.1.transforms.0.{i}.scale=({width},{width})'
        for i, width in enumerate((32, 48, 64, 80, 96, 112))
    ]
    result = run_tool(
        'test.py', ADE20K, trained_ade20k / 'iter_2.pth', '--tta', '--work-dir', tmp_path / 'work',
        *reduced(data_root), *scales,
    )  # fmt: skip
    assert result.status == 0, result.stderr
    (file,) = (tmp_path / 'work').glob('*/*.json')
    assert 0 <= json.loads(file.read_text())['mIoU'] <= 100


def test_the_demo_draws_its_picture_and_prints_the_miou(tmp_path):
    result = run_tool('demo.py', '--max-iters', 2, cwd=tmp_path, timeout=600)
    assert result.status == 0, result.stderr
    assert re.search(r'^mIoU on 16 unseen images: [\d.]+ %$', result.stdout, re.MULTILINE)
    picture = cv2.imread(str(tmp_path / 'work_dirs' / 'demo' / 'demo.png'))
    assert picture.shape[0] > picture.shape[1] / 2
    assert names(tmp_path) == ['data', 'work_dirs']
