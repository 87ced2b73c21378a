"""What tools/test.py changes in a config: predictions written, submissions, augmentation."""

import os
from pathlib import Path

from mmengine.config import Config

from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.engine.inference import READING
from kat_mm.errors import UserError
from kat_mm.installed import is_installed

PICKLES = ('.pkl', '.pickle')
# Where a metric that has ``format_only`` writes to.
_OUTPUTS = {
    'IoUMetric': ('output_dir', ''),
    'CityscapesMetric': ('output_dir', ''),
    'CocoMetric': ('outfile_prefix', 'predictions'),
    'CocoPanopticMetric': ('outfile_prefix', 'predictions'),
}
_TTA_MODELS: dict[str, dict] = {
    'mmpretrain': dict(type='AverageClsScoreTTA'),
    'mmseg': dict(type='SegTTAModel'),
    'mmdet': dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
}


def write_predictions(cfg: Config, out: str) -> None:
    """Have the metrics write what they compare with the truth, or all predictions to a file.

    Args:
        cfg: The config, which is changed.
        out: A file of :data:`PICKLES` for the predictions of any task; or a folder for label images
            or COCO's JSON, and for ``predictions.pkl`` where the metric writes neither.
    """
    metrics = _metrics(cfg)
    if out.endswith(PICKLES):
        file = out
    elif len(metrics) == 1 and type_name(metrics[0]) in ('IoUMetric', 'CocoMetric'):
        _write_to(metrics[0], out)
        return
    else:
        file = os.path.join(out, 'predictions.pkl')
    cfg.test_evaluator = [*metrics, dict(type='DumpResults', out_file_path=file)]


def write_submission(cfg: Config, out: str) -> None:
    """Have the metrics write what a test server takes, of a split whose truth is not public.

    The test set needs no annotations then: label images are not looked for, and an annotation file
    may list images alone.

    Args:
        cfg: The config, which is changed.
        out: Folder for label images, or for COCO's JSON.

    Raises:
        UserError: The metric has no such format.
    """
    metrics, kinds = _metrics(cfg), set()
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        steps = [step for step in dataset['pipeline'] if type_name(step) not in READING[1:]]
        dataset.update(pipeline=steps, test_mode=True)
        kinds.add(type_name(dataset))
        (dataset.get('data_prefix') or {}).pop('seg_map_path', None)
    if 'CityscapesDataset' in kinds:
        # Its server takes other numbers than models are trained with.
        if not is_installed('cityscapesscripts'):
            raise UserError('--format-only of Cityscapes needs: pip install cityscapesscripts')
        # Without keep_results it deletes what it has written.
        metrics = [dict(type='CityscapesMetric', keep_results=True)]
    for metric in metrics:
        if type_name(metric) not in _OUTPUTS:
            raise UserError(
                f'--format-only: {type_name(metric)} has no format of a test server; '
                f'{", ".join(_OUTPUTS)} have. Write predictions with --out FILE.pkl or '
                'tools/infer.py'
            )
        metric['format_only'] = True
        _write_to(metric, out)
        if 'ann_file' in metric and dataset.get('ann_file'):
            metric['ann_file'] = os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    cfg.test_evaluator = metrics


def check_names(cfg: Config, dataset) -> None:
    """Refuse images of which label images would have one name: metrics name them by the file alone.

    Args:
        cfg: The config, of which metrics may write label images.
        dataset: The test set, built.

    Raises:
        UserError: There are two such images.
    """
    folder = next(filter(None, (metric.get('output_dir') for metric in _metrics(cfg))), None)
    if folder is None:
        return
    paths: dict[str, str] = {}
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)['img_path']
        other = paths.setdefault(Path(path).stem, path)
        if other != path:
            raise UserError(
                f'--out {folder}: the label images of {other} and {path} would be one file; write '
                'to a file FILE.pkl, or with tools/infer.py, which keeps their folders'
            )


def augment(cfg: Config) -> None:
    """Average predictions over augmented images (TTA).

    They are those of the config's ``tta_pipeline``, or else the image and its mirror image; the
    library's model for it is the config's ``tta_model``, or else that of the library.

    Args:
        cfg: The config, which is changed.

    Raises:
        UserError: The library has none for the model.
    """
    scope, model = cfg.get('default_scope'), cfg.model
    if scope == 'mmdet' and not _has_boxes_alone(model):
        raise UserError(
            '--tta: mmdet merges boxes alone, and this model has masks; use a config of boxes, or '
            'leave out --tta'
        )
    tta_model = cfg.get('tta_model') or _TTA_MODELS.get(scope)
    if tta_model is None:
        raise UserError(f'--tta: there is no model of {scope} for it; give tta_model in the config')
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.get('tta_pipeline') or _mirrored(dataset['pipeline'])
    cfg.test_dataloader.collate_fn = dict(type='pseudo_collate')
    cfg.model = dict(tta_model, module=model)


def _metrics(cfg: Config) -> list[dict]:
    metrics = cfg.test_evaluator
    return [metrics] if isinstance(metrics, dict) else list(metrics)


def _write_to(metric: dict, out: str) -> None:
    key, name = _OUTPUTS[type_name(metric)]
    metric[key] = os.path.join(out, name) if name else out


def _has_boxes_alone(model: dict) -> bool:
    masks = (model.get('roi_head') or {}).get('mask_head') or model.get('panoptic_head')
    return not masks and 'panoptic_on' not in (model.get('test_cfg') or {})


def _mirrored(pipeline: list[dict]) -> list[dict]:
    """A test pipeline that packs the image and its mirror image."""
    *steps, pack = pipeline
    if type_name(pack) == 'PackDetInputs':
        keys = pack.get('meta_keys') or (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        )
        pack = dict(pack, meta_keys=(*keys, 'flip', 'flip_direction'))
    flips = [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
