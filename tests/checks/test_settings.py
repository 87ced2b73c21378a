import pytest
from mmengine.config import Config

from kat_mm.checks.settings import check_settings, check_topk
from kat_mm.errors import UserError

SOUND = dict(
    model=dict(),
    train_cfg=dict(max_iters=100, val_interval=10),
    train_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(), sampler=dict(group_size=2)),
    val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
    default_hooks=dict(
        checkpoint=dict(type='CheckpointHook', interval=10, save_best='mIoU', max_keep_ckpts=2),
        logger=dict(type='LoggerHook', interval=1),
    ),
    custom_hooks=[dict(type='PlotRationalsHook', interval=5)],
    randomness=dict(seed=0),
    optim_wrapper=dict(
        accumulative_counts=2,
        optimizer=dict(lr=0.1, weight_decay=0),
        paramwise_cfg=dict(layer_decay_rate=1),
        clip_grad=dict(max_norm=1.0),
    ),
)


def check(**changes):
    cfg = Config(SOUND)
    cfg.merge_from_dict(changes)
    check_settings(cfg)


def test_sound_settings_pass():
    check()
    check(train_cfg=dict(_delete_=True, by_epoch=True, max_epochs=3.0))
    check(**{'default_hooks.checkpoint.interval': -1, 'randomness.seed': None})
    check_settings(Config(dict(model=dict())))


@pytest.mark.parametrize(
    'key, value, right',
    [
        ('train_cfg.max_iters', 0, 'a whole number from 1'),
        ('train_cfg.max_iters', 2.5, 'a whole number from 1'),
        ('train_cfg.max_iters', '100', 'a whole number from 1'),
        ('train_cfg.max_iters', None, 'a whole number from 1'),
        ('train_cfg.max_epochs', -1, 'a whole number from 1'),
        ('train_cfg.val_interval', 0, 'a whole number from 1'),
        ('train_cfg.val_begin', -1, 'a whole number from 0'),
        ('train_dataloader.batch_size', 0, 'a whole number from 1'),
        ('train_dataloader.batch_size', True, 'a whole number from 1'),
        ('train_dataloader.num_workers', -1, 'a whole number from 0'),
        ('default_hooks.checkpoint.interval', 0, 'a whole number from 1, or -1 for never'),
        ('default_hooks.logger.interval', 0, 'a whole number from 1, or -1 for never'),
        ('default_hooks.checkpoint.max_keep_ckpts', 0, 'a whole number from 1, or -1 for all'),
        ('custom_hooks.0.interval', 0.5, 'a whole number from 1, or -1 for never'),
        ('optim_wrapper.accumulative_counts', 0, 'a whole number from 1'),
        ('train_dataloader.sampler.group_size', 0, 'a whole number from 1'),
        ('optim_wrapper.optimizer.lr', '1e-4', 'a finite number from 0'),
        ('optim_wrapper.optimizer.lr', -1e-4, 'a finite number from 0'),
        ('optim_wrapper.optimizer.lr', float('nan'), 'a finite number from 0'),
        ('optim_wrapper.optimizer.weight_decay', -0.1, 'a finite number from 0'),
        ('optim_wrapper.paramwise_cfg.layer_decay_rate', 0, 'a number above 0, up to 1'),
        ('optim_wrapper.paramwise_cfg.layer_decay_rate', 1.1, 'a number above 0, up to 1'),
        ('optim_wrapper.clip_grad.max_norm', 0, 'a finite number above 0'),
        ('optim_wrapper.clip_grad.max_norm', float('inf'), 'a finite number above 0'),
        ('randomness.seed', -3, 'a whole number from 0, or None'),
        ('randomness.seed', float('nan'), 'a whole number from 0, or None'),
    ],
)
def test_values_out_of_range_are_named_with_what_is_right(key, value, right):
    with pytest.raises(UserError) as error:
        check(**{key: value})
    assert str(error.value) == f'{key}={value!r} must be {right}'


def test_a_training_without_a_length_is_refused():
    with pytest.raises(UserError, match='train_cfg has neither max_iters nor max_epochs'):
        check(train_cfg=dict(_delete_=True, val_interval=3))


@pytest.mark.parametrize(
    'key, meant',
    [
        ('modle', 'model'),
        ('train_dataloder', 'train_dataloader'),
        ('optim_wraper', 'optim_wrapper'),
        ('param_schedulers', 'param_scheduler'),
        ('defualt_hooks', 'default_hooks'),
        ('work_dirs', 'work_dir'),
        ('laod_from', 'load_from'),
    ],
)
def test_a_misspelt_key_at_the_top_is_refused(key, meant):
    value = 'x' if meant in ('work_dir', 'load_from') else dict(x=1)
    with pytest.raises(UserError, match=f'has {key}, which nothing reads; did you mean {meant}'):
        check(**{key: value})


@pytest.mark.parametrize('key', ['data_root', 'meta', 'head', 'dataset', 'test_pipeline', 'mode'])
def test_variables_of_a_config_are_none(key):
    check(**{key: 1})


def test_none_for_a_misspelt_hook_is_refused():
    check(**{'default_hooks.logger': None})
    with pytest.raises(UserError, match='loger=None takes no hook away; did you mean logger'):
        check(**{'default_hooks.loger': None})


def test_a_misspelt_key_of_a_data_loader_is_refused():
    with pytest.raises(UserError, match='train_dataloader.batchsize .* did you mean batch_size'):
        check(**{'train_dataloader.batchsize': 3})


@pytest.mark.parametrize(
    'metric, right, wrong, hint',
    [
        (dict(type='IoUMetric'), 'mIoU', 'miou', 'mean mIoU'),
        (dict(type='IoUMetric'), 'aAcc', 'mDice', 'aAcc, mIoU, mAcc'),
        (dict(type='IoUMetric', iou_metrics=['mFscore']), 'mFscore', 'mIoU', 'mFscore'),
        (dict(type='IoUMetric', prefix='seg'), 'seg/mIoU', 'mIoU', 'seg/mIoU'),
        (dict(type='CocoMetric'), 'coco/bbox_mAP', 'bbox_mAP', 'coco/bbox_mAP'),
        (
            dict(type='mmdet.CocoMetric', metric=['bbox', 'segm']),
            'coco/segm_mAP_50',
            'coco/segm_map',
            'did you mean coco/segm_mAP',
        ),
        (dict(type='CocoMetric', metric='proposal'), 'coco/AR@100', 'coco/bbox_mAP', 'AR@300'),
        (dict(type='CocoMetric', metric_items=['mAP_50']), 'coco/bbox_mAP_50', 'coco/bbox_mAP', ''),
        (dict(type='Accuracy', topk=(1, 5)), 'accuracy/top5', 'top1', 'accuracy/top1'),
        (dict(type='Accuracy', topk=2, thrs=(0.0, None)), 'accuracy/top2_no-thr', 'top2', ''),
    ],
)
def test_the_best_is_kept_by_a_metric_that_is_computed(metric, right, wrong, hint):
    best = 'default_hooks.checkpoint.save_best'
    check(val_evaluator=dict(_delete_=True, **metric), **{best: right})
    check(val_evaluator=[metric], **{best: [right, 'auto']})
    with pytest.raises(UserError) as error:
        check(val_evaluator=dict(_delete_=True, **metric), **{best: wrong})
    message = str(error.value)
    assert f'save_best={wrong!r} is none of what val_evaluator computes' in message
    assert hint.split()[-1:] == [] or hint.split()[-1] in message


def test_metrics_of_other_projects_compute_what_they_do():
    check(
        val_evaluator=dict(_delete_=True, type='MyMetric'),
        **{'default_hooks.checkpoint.save_best': 'x'},
    )


def test_the_metrics_are_those_that_the_libraries_compute():
    # Their names, from the metrics themselves on a perfect prediction of one image.
    import torch
    from mmpretrain.evaluation import Accuracy
    from mmseg.evaluation import IoUMetric

    from kat_mm.checks.settings import _METRICS

    segmentation = IoUMetric(iou_metrics=['mIoU', 'mDice', 'mFscore'])
    segmentation.dataset_meta = dict(classes=('a', 'b'))
    label = torch.tensor([[0, 1]])
    results = [segmentation.intersect_and_union(label, label, 2, 255)]
    _, names = _METRICS['IoUMetric'](dict(iou_metrics=segmentation.metrics))
    assert set(segmentation.compute_metrics(results)) == set(names)
    accuracy = Accuracy(topk=(1, 2), thrs=(0.1, None))
    sample = dict(gt_label=torch.tensor([0]), pred_score=torch.tensor([0.9, 0.1]))
    _, names = _METRICS['Accuracy'](dict(topk=(1, 2), thrs=(0.1, None)))
    assert list(accuracy.compute_metrics([sample])) == names


def test_more_best_classes_than_there_are_are_refused():
    cfg = Config(dict(val_evaluator=[dict(type='Accuracy', topk=(1, 5))]))
    check_topk(cfg, 'val', 5)
    check_topk(cfg, 'val', None)
    with pytest.raises(UserError, match=r'val_evaluator.topk=.* best 5 of 3 classes'):
        check_topk(cfg, 'val', 3)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(compile='default'), "compile='default' must be True, False, or"),
        (dict(compile=dict(backends='eager')), 'compile.backends is no argument of torch.compile'),
        (
            dict(compile=dict(mode='fastest')),
            "compile.mode='fastest' is no mode of torch.compile: default, .*reduce-overhead",
        ),
        (dict(cuda_graphs='backbone'), "cuda_graphs='backbone' must be True, False, or a list"),
        (dict(cuda_graphs=['nek']), "cuda_graphs names 'nek', which is no part of the model"),
    ],
)
def test_what_to_compile_and_to_graph_is_checked(changes, message):
    with pytest.raises(UserError, match=message):
        check(**changes)


def test_sound_wishes_to_compile_and_to_graph_pass():
    check(compile=dict(backend='eager', dynamic=False), cuda_graphs=True)
    check(**{'compile': True, 'cuda_graphs': ['backbone'], 'model.backbone': dict()})
