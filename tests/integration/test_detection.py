"""Detection as a user runs it: training, resuming, testing, two processes, and mistakes."""

import json
import os
import pickle
import re
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.models import MaskRCNN
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_detector import TINY
from tools_runner import ROOT, read_losses, read_scalars, run_script, run_tool

from kat_mm.sample_data import SampleSettings, make_sample_data

NEAR_TRUTH = """
_base_ = {base!r}

custom_imports = dict(imports=['kat_mm', 'stop_hook', 'test_detection'])
model = dict(type='NearTruth')
"""

# Ids of the config's classes.
CATEGORIES = [1, 3, 9, 20]
# Pixels to the right by which NearTruth misses.
MISS = 1


@MODELS.register_module()
class NearTruth(MaskRCNN):
    """Finds every object, a bit aside: AP between 0 and 1, which no short training reaches."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for sample in super().predict(batch_inputs, batch_data_samples, rescale):
            truth = sample.gt_instances
            masks = np.roll(truth.masks.masks, MISS, axis=2).astype(bool)
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes + torch.tensor([MISS, 0, MISS, 0]),
                labels=truth.labels,
                scores=1 / torch.arange(1, len(truth) + 1),
                masks=torch.from_numpy(masks),
            )
        return batch_data_samples


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['coco'], folder, SampleSettings(12, 5, 96, 64))
    return folder / 'coco'


@pytest.fixture(scope='module')
def config(tmp_path_factory, data_root):
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    base = str(ROOT / 'configs' / 'kat_t_mask_rcnn_sample.py')
    path.write_text(TINY.format(base=base, data_root=str(data_root)))
    return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory, config):
    work_dir = tmp_path_factory.mktemp('trained')
    result = run_tool('train.py', config, '--work-dir', work_dir)
    assert result.status == 0, result.stderr
    return work_dir


@pytest.fixture(scope='module')
def tested(tmp_path_factory, config, trained):
    """Output and folder of tools/test.py with all that it can write, of NearTruth."""
    folder = tmp_path_factory.mktemp('tested')
    options = [
        '--work-dir',
        folder / 'work',
        '--out',
        folder / 'out',
        '--show-dir',
        folder / 'show',
    ]
    near_truth = folder / 'near_truth.py'
    near_truth.write_text(NEAR_TRUTH.format(base=str(config)))
    result = run_tool('test.py', near_truth, trained / 'iter_4.pth', *options)
    assert result.status == 0, result.stderr
    return result, folder


def saved_metrics(folder):
    (file,) = folder.glob('*/*.json')
    return json.loads(file.read_text())


def test_training_writes_checkpoint_log_and_metrics(trained):
    losses = read_losses(trained)
    assert list(losses) == [1, 2, 3, 4]
    assert all(np.isfinite(loss) and loss > 0 for loss in losses.values())
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    assert {'state_dict', 'optimizer', 'ema_state_dict'} <= checkpoint.keys()
    (line,) = [line for line in read_scalars(trained) if 'coco/bbox_mAP' in line]
    assert 'coco/segm_mAP' in line


def test_a_killed_run_resumes_as_if_it_had_never_been_stopped(config, trained, tmp_path):
    killed = run_tool('train.py', config, '--work-dir', tmp_path, STOP_AT='4')
    assert killed.status == -signal.SIGKILL
    assert (tmp_path / 'iter_2.pth').exists() and not (tmp_path / 'iter_4.pth').exists()
    result = run_tool('train.py', config, '--work-dir', tmp_path, '--resume')
    assert result.status == 0, result.stderr
    assert read_losses(tmp_path) == read_losses(trained)
    expected, found = (
        torch.load(work_dir / 'iter_4.pth', weights_only=False) for work_dir in (trained, tmp_path)
    )
    for key in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(expected[key][name], found[key][name]) for name in expected[key])


@pytest.fixture(scope='module')
def truth(data_root):
    return COCO(str(data_root / 'annotations' / 'instances_val2017.json'))


def test_the_saved_predictions_are_the_models(tested, truth):
    objects = truth.loadAnns(truth.getAnnIds(catIds=CATEGORIES, iscrowd=False))
    for kind in ('bbox', 'segm'):
        saved = json.loads((tested[1] / f'out/predictions.{kind}.json').read_text())
        assert len(saved) == len(objects)
        for found, expected in zip(saved, objects, strict=True):
            assert found['image_id'] == expected['image_id']
            assert found['category_id'] == expected['category_id']
            x, *rest = expected['bbox']
            assert found['bbox'] == pytest.approx([x + MISS, *rest])
            if kind == 'segm':
                mask = np.roll(truth.annToMask(expected), MISS, axis=1)
                assert np.array_equal(rle.decode(found['segmentation']), mask)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_the_printed_and_saved_ap_is_that_of_the_saved_predictions(tested, truth, kind):
    result, folder = tested
    evaluation = COCOeval(truth, truth.loadRes(str(folder / f'out/predictions.{kind}.json')), kind)
    evaluation.params.catIds = CATEGORIES
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.2 < evaluation.stats[0] < 0.8
    metrics = saved_metrics(folder / 'work')
    assert metrics[f'coco/{kind}_mAP'] == pytest.approx(evaluation.stats[0], abs=6e-4)
    printed = re.search(rf'coco/{kind}_mAP: ([\d.]+)', result.stdout)
    assert float(printed[1]) == pytest.approx(metrics[f'coco/{kind}_mAP'], abs=1e-4)


def test_show_dir_gets_a_picture_of_every_image(tested, data_root):
    pictures = sorted(path.name for path in (tested[1] / 'show').iterdir())
    assert pictures == sorted(path.name for path in (data_root / 'val2017').iterdir())
    for name in pictures:
        # Truth and prediction, side by side, below titles and above legends.
        height, width, _ = cv2.imread(str(tested[1] / 'show' / name)).shape
        assert width > 2 * 360 and height > 320


# kat_s_mask_rcnn_coco.py itself; only the sizes are smaller.
REDUCED = [
    'model.backbone.init_cfg.checkpoint=None',
    'model.backbone.arch._delete_=True',
    'model.backbone.arch.embed_dims=32',
    'model.backbone.arch.num_layers=12',
    'model.backbone.arch.num_heads=2',
    'model.backbone.arch.feedforward_channels=64',
    'model.backbone.img_size=64',
    'model.neck.in_channels=32',
    'model.roi_head.bbox_head.fc_out_channels=32',
    'model.train_cfg.rcnn.sampler.num=16',
    'model.test_cfg.rpn.max_per_img=20',
    'model.test_cfg.rcnn.score_thr=0.0',
    'model.test_cfg.rcnn.max_per_img=5',
    'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=1',
    'val_dataloader.num_workers=1',
    'train_cfg.max_iters=2',
    'default_hooks.logger.interval=1',
]


def test_the_coco_config_trains_and_evaluates_on_a_folder_laid_out_as_coco(data_root, tmp_path):
    config = ROOT / 'configs' / 'kat_s_mask_rcnn_coco.py'
    options = [*REDUCED, f'val_evaluator.ann_file={data_root}/annotations/instances_val2017.json']
    cfg = Config.fromfile(config)
    for split in ('train', 'val'):
        dataset = f'{split}_dataloader.dataset'
        options.append(f'{dataset}.data_root={data_root}')
        for index, transform in enumerate(cfg[f'{split}_dataloader'].dataset.pipeline):
            if transform.type == 'Resize':
                options.append(f'{dataset}.pipeline.{index}.scale=(96,64)')
    options.append('train_cfg.val_interval=2')
    result = run_tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert result.status == 0, result.stderr
    assert list(read_losses(tmp_path)) == [1, 2]
    assert [line for line in read_scalars(tmp_path) if 'coco/segm_mAP' in line]


def test_two_processes_train_and_evaluate(config, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent))  # for stop_hook
    options = ['train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    result = run_script(
        'dist_train.sh', config, 2, '--work-dir', tmp_path, '--cfg-options', *options
    )
    assert result.returncode == 0, result.stderr
    losses = read_losses(tmp_path)
    assert list(losses) == [1, 2] and all(np.isfinite(loss) for loss in losses.values())
    assert [line for line in read_scalars(tmp_path) if 'coco/segm_mAP' in line]


# Mistakes: the rest is in tests/checks.


def fails(config, root, work_dir, message, *options):
    sets = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val')]
    evaluator = f'val_evaluator.ann_file={root}/annotations/instances_val2017.json'
    result = run_tool(
        'train.py', config, '--work-dir', work_dir, '--cfg-options', *sets, evaluator, *options
    )
    assert result.status == 1
    assert re.search(f'^error: .*{message}', result.last_line), result.stderr
    assert 'Traceback' not in result.stderr
    return result


def test_an_image_that_does_not_decode_is_named(config, data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / 'coco')
    for path in (tmp_path / 'coco' / 'train2017').iterdir():
        path.write_bytes(b'not an image')
    message = r'cannot load the sample .*train2017/\d+.jpg.*Repair or replace'
    fails(config, tmp_path / 'coco', tmp_path / 'work', message)


class Command:
    """A pickle of it runs a command of the shell when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_in_proposals_runs_where_it_is_allowed_alone(config, tmp_path):
    path, ran, work_dir = tmp_path / 'proposals.pkl', tmp_path / 'ran', tmp_path / 'work'
    path.write_bytes(pickle.dumps({'code': Command(f'touch {ran}')}))
    arguments = [config, '--cfg-options', f'train_dataloader.dataset.proposal_file={path}']
    result = run_tool('train.py', *arguments, '--work-dir', work_dir)
    assert result.status == 1 and 'Traceback' not in result.stderr
    assert f'{path} holds more than arrays' in result.last_line
    assert not ran.exists() and not list(work_dir.glob('*.pth'))
    run_tool('train.py', *arguments, '--work-dir', work_dir, '--allow-pickle')
    assert ran.exists()


def test_what_is_left_out_is_in_the_log_file(config, data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / 'coco')
    path = tmp_path / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['area'] = 0
    path.write_text(json.dumps(content))
    options = [f'train_dataloader.dataset.data_root={tmp_path}/coco', 'train_cfg.max_iters=1']
    work_dir = tmp_path / 'work'
    result = run_tool('train.py', config, '--work-dir', work_dir, '--cfg-options', *options)
    assert result.status == 0, result.stderr
    (log,) = work_dir.glob('*/*.log')
    message = f'{path}: 1 boxes without area in their image are left out'
    assert log.read_text().count(message) == result.stdout.count(message) == 1


def test_annotations_that_are_not_cocos_leave_no_work_folder(config, data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / 'coco')
    path = tmp_path / 'coco/annotations/instances_train2017.json'
    path.write_text('{"shapes": []}')
    message = "annotation file .*instances_train2017.json is not COCO's: .*the keys shapes"
    fails(config, tmp_path / 'coco', tmp_path / 'work', message)
    assert not (tmp_path / 'work').exists()


def test_the_converter_prints_what_it_wrote_and_names_damage(tmp_path):
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/train.txt').write_text('a\n')
    cv2.imwrite(str(tmp_path / 'JPEGImages/a.jpg'), np.zeros((9, 9, 3), np.uint8))
    result = run_tool('voc_to_coco.py', tmp_path)
    assert result.status == 1
    assert re.search('^error: .*a.xml does not exist', result.last_line)
    (tmp_path / 'Annotations/a.xml').write_text(
        '<annotation><size><width>9</width><height>9</height></size><object><name>cell</name>'
        '<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>'
        '</annotation>'
    )
    result = run_tool('voc_to_coco.py', tmp_path)
    assert result.status == 0, result.stderr
    assert f'{tmp_path}/annotations/train.json: 1 images, 1 cell\n' in result.stdout


@pytest.mark.slow
def test_compiled_parts_train_as_without(trained, config, tmp_path):
    options = ['--compile', '--cfg-options', 'compile.backend=eager']
    result = run_tool('train.py', config, '--work-dir', tmp_path, *options)
    assert result.status == 0, result.stderr
    assert read_losses(tmp_path) == pytest.approx(read_losses(trained), rel=1e-3)
    states = [torch.load(f / 'iter_4.pth', weights_only=False) for f in (trained, tmp_path)]
    assert list(states[0]['state_dict']) == list(states[1]['state_dict'])
