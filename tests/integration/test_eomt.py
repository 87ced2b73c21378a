"""EoMT as a user runs it, on each task: training, evaluation, resuming, two processes, mistakes."""

import pickle
import shutil
import signal

import cv2
import pytest
import torch
from tools_runner import ROOT, read_losses, read_scalars, run_script, run_tool

from kat_mm.sample_data import SampleSettings, make_sample_data

# A config with a tiny model and few small images. Masks go within the run.
TINY = """
_base_ = {base!r}

custom_imports = dict(imports=['kat_mm', 'stop_hook'], allow_failed_imports=False)
custom_hooks = [
    hook if hook['type'] != 'MaskAnnealingHook' else dict(hook, begin=[1, 2], end=[3, 5])
    for hook in _base_.custom_hooks
] + [dict(type='StopHook')]
size = (96, 64)
sizes = dict(
    RandomResize=dict(scale=size),
    Resize=dict(scale=size),
    RandomCrop=dict(crop_size=(64, 96)),
    Pad=dict(size=size),
)
train_pipeline = [dict(step, **sizes.get(step['type'], {{}})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **sizes.get(step['type'], {{}})) for step in _base_.test_pipeline]
head = dict(in_channels=32, num_blocks=2, num_queries=60)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64
        ),
        img_size=size,
        init_cfg=None,
    ),
)
loaders = dict(num_workers=0, persistent_workers=False)
data_root = {data_root!r}
train_dataloader = dict(
    batch_size=2, dataset=dict(data_root=data_root, pipeline=train_pipeline), **loaders
)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline), **loaders)
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='TwoWarmupsPolyLR', head_iters=1, backbone_iters=2, end=6)
]
train_cfg = dict(max_iters=6, val_interval=6)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, save_best=None))
"""
SEMANTIC = """
model.update(
    data_preprocessor=dict(size=(64, 96)),
    decode_head=dict(train_cfg=dict(num_points=64), **head),
    test_cfg=dict(mode='whole', _delete_=True),
)
tta_pipeline = None
"""
DETECTION = """
model.update(
    data_preprocessor=dict(batch_augments=None),
    panoptic_head=head,
    train_cfg=dict(num_points=64),
)
annotations = data_root + '/annotations'
"""
INSTANCE = DETECTION + "val_evaluator = dict(ann_file=f'{annotations}/instances_val2017.json')\n"
PANOPTIC = DETECTION + (
    "val_evaluator = dict(ann_file=f'{annotations}/panoptic_val2017.json', "
    "seg_prefix=f'{annotations}/panoptic_val2017')\n"
)
TASKS = {
    'ade20k': ('ade/ADEChallengeData2016', SEMANTIC, 'mIoU'),
    'instance_coco': ('coco', INSTANCE + 'test_evaluator = val_evaluator\n', 'coco/segm_mAP'),
    'panoptic_coco': ('coco', PANOPTIC + 'test_evaluator = val_evaluator\n', 'coco_panoptic/PQ'),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['ade20k', 'coco'], folder, SampleSettings(8, 3, 96, 64))
    return folder


def write_config(folder, task, data):
    root, more, _ = TASKS[task]
    path = folder / f'{task}.py'
    base = str(ROOT / 'configs' / f'kat_s_eomt_{task}.py')
    path.write_text(TINY.format(base=base, data_root=str(data / root)) + more)
    return path


@pytest.fixture(scope='module', params=TASKS)
def trained(request, data, tmp_path_factory):
    """Task, config and work folder of a short run."""
    folder = tmp_path_factory.mktemp(request.param)
    config = write_config(folder, request.param, data)
    result = run_tool('train.py', config, '--work-dir', folder / 'work')
    assert result.status == 0, result.stderr
    return request.param, config, folder / 'work'


def test_it_trains_and_evaluates(trained):
    task, _, work_dir = trained
    losses = read_losses(work_dir)
    assert list(losses) == [1, 2, 3, 4, 5, 6] and all(loss > 0 for loss in losses.values())
    (line,) = [line for line in read_scalars(work_dir) if TASKS[task][2] in line]
    assert 0 <= line[TASKS[task][2]] <= 100


def test_a_checkpoint_is_tested_with_the_result_of_its_validation(trained, tmp_path):
    task, config, work_dir = trained
    result = run_tool('test.py', config, work_dir / 'iter_6.pth', '--work-dir', tmp_path)
    assert result.status == 0, result.stderr
    metric = TASKS[task][2]
    (line,) = [line for line in read_scalars(work_dir) if metric in line]
    (file,) = tmp_path.glob('*/*.json')
    assert f'"{metric}": {line[metric]}' in file.read_text()


def test_predictions_go_to_a_file_and_pictures_to_a_folder(trained, tmp_path):
    task, config, work_dir = trained
    out, show = tmp_path / 'found.pkl', tmp_path / 'show'
    options = '--out', out, '--show-dir', show, '--work-dir', tmp_path / 'work'
    result = run_tool('test.py', config, work_dir / 'iter_6.pth', *options)
    assert result.status == 0, result.stderr
    samples = pickle.loads(out.read_bytes())
    key = dict(ade20k='pred_sem_seg', instance_coco='pred_instances')
    assert len(samples) == 3
    assert all(key.get(task, 'pred_panoptic_seg') in sample for sample in samples)
    pictures = [cv2.imread(str(path)) for path in show.iterdir()]
    # Truth and prediction side by side.
    assert len(pictures) == 3 and all(p.shape[1] > 1.5 * p.shape[0] for p in pictures)


def test_a_killed_run_resumes_as_if_it_had_never_been_stopped(trained, tmp_path):
    _, config, work_dir = trained
    killed = run_tool('train.py', config, '--work-dir', tmp_path, STOP_AT='4')
    assert killed.status == -signal.SIGKILL
    result = run_tool('train.py', config, '--work-dir', tmp_path, '--resume')
    assert result.status == 0, result.stderr
    assert read_losses(tmp_path) == read_losses(work_dir)
    expected, found = (
        torch.load(folder / 'iter_6.pth', weights_only=False)['state_dict']
        for folder in (work_dir, tmp_path)
    )
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_two_processes_train_evaluate_and_go_on(task, data, tmp_path):
    config = write_config(tmp_path, task, data)
    # Its module is found in the tests' own processes alone.
    text = config.read_text().replace(", 'stop_hook'", '').replace("dict(type='StopHook')", '')
    config.write_text(text)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    schedule = '--cfg-options param_scheduler.0.end=6 train_cfg.val_interval=6'.split()
    for work_dir, options in (
        (whole, schedule),
        (parts, [*schedule, 'train_cfg.max_iters=4']),
        (parts, ['--resume', *schedule]),
    ):
        result = run_script('dist_train.sh', config, 2, '--work-dir', work_dir, *options)
        assert result.returncode == 0, result.stderr
    assert len(read_losses(whole)) == 6
    assert read_losses(parts) == read_losses(whole)
    (line,) = [line for line in read_scalars(whole) if TASKS[task][2] in line]
    assert any(line[TASKS[task][2]] == other.get(TASKS[task][2]) for other in read_scalars(parts))


def test_a_panoptic_picture_that_disagrees_with_the_json_is_named(data, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(data / 'coco', root / 'coco')
    for path in (root / 'coco/annotations/panoptic_train2017').iterdir():
        picture = cv2.imread(str(path))
        picture[:2, :2] = 255
        cv2.imwrite(str(path), picture)
    config = write_config(tmp_path, 'panoptic_coco', root)
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work')
    assert result.status == 1 and 'segments in its pixels that' in result.last_line


def test_more_objects_than_queries_are_named(data, tmp_path):
    config = write_config(tmp_path, 'panoptic_coco', data)
    options = ['--cfg-options', 'model.panoptic_head.num_queries=3']
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', *options)
    assert result.status == 1 and 'num_queries=3' in result.last_line


def test_fewer_blocks_than_those_of_the_head_are_named(data, tmp_path):
    config = write_config(tmp_path, 'ade20k', data)
    options = ['--cfg-options', 'model.decode_head.num_blocks=4']
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', *options)
    assert result.status == 1
    assert 'num_blocks=4 of the head, but backbone KAT has 3 blocks' in result.last_line
