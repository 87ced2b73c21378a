"""Settings of a run: its length, its intervals, its loaders, and what it keeps."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from kat_mm.checks.names import correct
from kat_mm.datasets.wrappers import type_name
from kat_mm.errors import UserError, some

_RUNNER_KEYS = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
# Besides the Runner's: what mmengine, its libraries and their tools read at the top of a config.
_TOP_KEYS = _RUNNER_KEYS | {
    'compile', 'cuda_graphs', 'custom_imports', 'tta_model', 'runner_type'
}  # fmt: skip
_SINGLE_VALUES = {
    'work_dir', 'load_from', 'resume', 'launcher', 'log_level', 'default_scope', 'experiment_name',
    'runner_type',
}  # fmt: skip
_LOADER_KEYS = set(inspect.signature(DataLoader.__init__).parameters) - {'self'} | {
    'num_batch_per_epoch'
}


def check_settings(cfg: Config) -> None:
    """Check what the runner reads from a config, which it looks at late or never.

    Raises:
        UserError: A key is misspelt, a value is of a wrong type or out of range, or the metric to
            keep the best checkpoint by is none that is computed.
    """
    _check_top_keys(cfg)
    _check_speed(cfg)
    for where, value, is_right, right in _settings(cfg):
        if not is_right(value):
            raise UserError(f'{where}={value!r} must be {right}')
    train = cfg.get('train_cfg')
    if train is not None and not {'max_iters', 'max_epochs'} & train.keys():
        raise UserError('train_cfg has neither max_iters nor max_epochs: how long is training?')
    _check_save_best(cfg)


def _check_top_keys(cfg: Config) -> None:
    for key in cfg:
        near = correct(key, _TOP_KEYS)
        is_part = isinstance(cfg[key], dict | list)
        if near and key not in _TOP_KEYS and is_part == (near not in _SINGLE_VALUES):
            raise UserError(
                f'the config has {key}, which nothing reads; did you mean {near}? (Rename it if '
                'it is a variable of your own)'
            )
    hooks = cfg.get('default_hooks') or {}
    for key in hooks:
        near = correct(key, [name for name in hooks if hooks[name] is not None])
        if hooks[key] is None and near:
            raise UserError(f'default_hooks.{key}=None takes no hook away; did you mean {near}?')
    for split in ('train', 'val', 'test'):
        for key in cfg.get(f'{split}_dataloader') or ():
            if key not in _LOADER_KEYS:
                near = difflib.get_close_matches(key, _LOADER_KEYS, n=1)
                hint = f'; did you mean {near[0]}?' if near else ''
                raise UserError(f'{split}_dataloader.{key} is no argument of a data loader{hint}')


def _check_speed(cfg: Config) -> None:
    compiled, graphed = cfg.get('compile'), cfg.get('cuda_graphs')
    if compiled is not None and not isinstance(compiled, bool | dict):
        raise UserError(f'compile={compiled!r} must be True, False, or arguments of torch.compile')
    known = set(inspect.signature(torch.compile).parameters) - {'model'}
    for key in compiled if isinstance(compiled, dict) else ():
        if key not in known:
            raise UserError(f'compile.{key} is no argument of torch.compile: {some(known, 12)}')
    mode = compiled.get('mode') if isinstance(compiled, dict) else None
    if mode is not None and mode not in torch._inductor.list_mode_options():
        modes = some(torch._inductor.list_mode_options())
        raise UserError(f'compile.mode={mode!r} is no mode of torch.compile: {modes}')
    if graphed is not None and not isinstance(graphed, bool | list | tuple):
        raise UserError(
            f'cuda_graphs={graphed!r} must be True, False, or a list of parts of the model'
        )
    for name in graphed if isinstance(graphed, list | tuple) else ():
        if not isinstance(name, str) or name.split('.')[0] not in (cfg.get('model') or {}):
            raise UserError(f'cuda_graphs names {name!r}, which is no part of the model')


def _is_whole(least: int, *others: int) -> Callable[[Any], bool]:
    def is_right(value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            return False
        return value >= least or value in others

    return is_right


_POSITIVE = _is_whole(1), 'a whole number from 1'
_NATURAL = _is_whole(0), 'a whole number from 0'
_OR_NEVER = _is_whole(1, -1), 'a whole number from 1, or -1 for never'
_OR_ALL = _is_whole(1, -1), 'a whole number from 1, or -1 for all'


def _is_number(least: float, most: float = math.inf) -> Callable[[Any], bool]:
    def is_right(value) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and least <= value <= most and value != math.inf

    return is_right


_SIZE = _is_number(0), 'a finite number from 0'
_ABOVE_0 = _is_number(math.ulp(0.0)), 'a finite number above 0'
_FACTOR = _is_number(math.ulp(0.0), 1), 'a number above 0, up to 1'
_SEED = (lambda value: value is None or _is_whole(0)(value)), 'a whole number from 0, or None'


def _settings(cfg: Config) -> Iterator[tuple[str, Any, Callable, str]]:
    """Where a setting stands, its value, and what is right."""
    tables = [
        (
            'train_cfg',
            dict(
                max_iters=_POSITIVE,
                max_epochs=_POSITIVE,
                val_interval=_POSITIVE,
                val_begin=_NATURAL,
            ),
        ),
        ('optim_wrapper', dict(accumulative_counts=_POSITIVE)),
        ('optim_wrapper.optimizer', dict(lr=_SIZE, weight_decay=_SIZE)),
        ('optim_wrapper.paramwise_cfg', dict(layer_decay_rate=_FACTOR)),
        ('optim_wrapper.clip_grad', dict(max_norm=_ABOVE_0)),
        ('randomness', dict(seed=_SEED)),
        *(
            (f'{split}_dataloader', dict(batch_size=_POSITIVE, num_workers=_NATURAL))
            for split in ('train', 'val', 'test')
        ),
        ('train_dataloader.sampler', dict(group_size=_POSITIVE)),
    ]
    hook = dict(interval=_OR_NEVER, max_keep_ckpts=_OR_ALL)
    hooks = [
        *((f'default_hooks.{name}', hook) for name in cfg.get('default_hooks') or ()),
        *((f'custom_hooks.{i}', hook) for i in range(len(cfg.get('custom_hooks') or ()))),
    ]
    for where, fields in tables + hooks:
        given = cfg
        for part in where.split('.'):
            given = given[int(part)] if isinstance(given, list) else (given or {}).get(part)
        for field, (is_right, right) in fields.items():
            if isinstance(given, dict) and field in given:
                yield f'{where}.{field}', given[field], is_right, right


def _check_save_best(cfg: Config) -> None:
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    wanted = hook.get('save_best')
    evaluator = cfg.get('val_evaluator')
    if not wanted or not evaluator:
        return
    known = []
    for metric in [evaluator] if isinstance(evaluator, dict) else evaluator:
        names = _METRICS.get(type_name(metric) if 'type' in metric else '')
        if names is None:  # of somebody else
            return
        prefix, keys = names(metric)
        prefix = metric.get('prefix') or prefix
        known += [f'{prefix}/{key}' if prefix else key for key in keys]
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in [*known, 'auto'] and not str(name).endswith('_precision'):
            near = difflib.get_close_matches(str(name).lower(), {k.lower() for k in known}, n=1)
            hint = next((f'; did you mean {k}?' for k in known if near == [k.lower()]), '')
            raise UserError(
                f'default_hooks.checkpoint.save_best={name!r} is none of what val_evaluator '
                f'computes: {some(known, 12)}{hint}'
            )


def _iou_keys(metric: dict) -> tuple[str, list[str]]:
    own = dict(
        mIoU=['mIoU', 'mAcc'],
        mDice=['mDice', 'mAcc'],
        mFscore=['mFscore', 'mPrecision', 'mRecall'],
    )
    wanted = metric.get('iou_metrics', ['mIoU'])
    return '', ['aAcc', *(key for name in wanted for key in own.get(name, ()))]


# Items of CocoMetric where none are named.
_PROPOSALS = ('@100', '@300', '@1000', '_s@1000', '_m@1000', '_l@1000')
_BOXES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def _coco_keys(metric: dict) -> tuple[str, list[str]]:
    wanted = metric.get('metric', 'bbox')
    items = metric.get('metric_items')
    keys = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name == 'proposal':
            keys += items or [f'AR{part}' for part in _PROPOSALS]
        elif name == 'proposal_fast':
            keys += [f'AR@{number}' for number in metric.get('proposal_nums', (100, 300, 1000))]
        else:
            keys += [f'{name}_{item}' for item in items or _BOXES]
    return 'coco', keys


def _accuracy_keys(metric: dict) -> tuple[str, list[str]]:
    topk, thresholds = metric.get('topk', (1,)), metric.get('thrs', 0.0)
    topk = [topk] if isinstance(topk, int) else topk
    thresholds = thresholds if isinstance(thresholds, list | tuple) else [thresholds]
    ends = ['']
    if len(thresholds) > 1:
        ends = ['_no-thr' if one is None else f'_thr-{one:.2f}' for one in thresholds]
    return 'accuracy', [f'top{k}{end}' for k in topk for end in ends]


# What the libraries' metrics compute, by their default prefix.
_METRICS = dict(IoUMetric=_iou_keys, CocoMetric=_coco_keys, Accuracy=_accuracy_keys)


def check_topk(cfg: Config, split: str, num_classes: int | None) -> None:
    """Refuse an accuracy of more best classes than there are.

    Raises:
        UserError: ``topk`` of the split's evaluator is beyond the number of classes.
    """
    evaluator = cfg.get(f'{split}_evaluator')
    for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator or {}]:
        topk = metric.get('topk', 1) if isinstance(metric, dict) else 1
        largest = max(topk) if isinstance(topk, list | tuple) else topk
        if num_classes is not None and largest > num_classes:
            raise UserError(
                f'{split}_evaluator.topk={topk} asks for the best {largest} of {num_classes} '
                f'classes; set it to (1,), or to numbers up to {num_classes}'
            )
