"""Metrics of exported files beside those of the checkpoints, over a whole validation set.

    python benchmarks/exported_metrics.py --folder FOLDER      # needs kat_mm[export]

Small models are trained on sample data by tools/train.py, exported by tools/export.py, and
evaluated by tools/test.py: the checkpoint, then each file, with the config's own pipeline and
metrics. What lies in FOLDER already, sample data and checkpoints, is not made again. On two cores
the trainings take some ten minutes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from export_tables import PAGE, RESULTS, write_tables
from timing import machine, save, version

from kat_mm.export.convert import SUFFIXES

ROOT = Path(__file__).resolve().parents[1]
# EoMT at the size of the other sample configs: panoptic maps of the sample data.
EOMT = """
_base_ = {base!r}

scale = (128, 96)
data_root = 'data/sample/coco'
load = [dict(type='LoadImageFromFile'), dict(type='kat_mm.LoadPanopticAnnotations')]
resize = dict(type='Resize', scale=scale, keep_ratio=True)
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
)
model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384
        ),
        img_size=scale[::-1],
        patch_size=8,
        init_cfg=dict(checkpoint=None),
    ),
    panoptic_head=dict(in_channels=96, patch_size=8, num_queries=40, num_blocks=2),
    train_cfg=dict(num_points=512),
    test_cfg=dict(object_mask_thr=0.2, iou_thr=0.5),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        pipeline=[*load, resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')],
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=[*load, resize, pack]),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=f'{{data_root}}/annotations/panoptic_val2017.json',
    seg_prefix=f'{{data_root}}/annotations/panoptic_val2017',
)
test_evaluator = val_evaluator
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=0.1),
)
max_iters = 240
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=20, end=max_iters),
]
custom_hooks = [
    hook if hook['type'] != 'MaskAnnealingHook' else dict(hook, begin=[80, 120], end=[140, 180])
    for hook in _base_.custom_hooks
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_iters, save_best=None)
)
"""
# Name: config, sample data, metrics that are compared.
TRAINED = {
    'classifier': ('kat_t_in1k_sample', 'imagenet', ['accuracy/top1']),
    'upernet': ('kat_t_upernet_sample', 'ade20k', ['mIoU', 'aAcc']),
    'mask_rcnn': (
        'kat_t_mask_rcnn_sample', 'coco',
        ['coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP', 'coco/segm_mAP_50'],
    ),
    'eomt': ('eomt', 'coco', ['coco_panoptic/PQ', 'coco_panoptic/SQ', 'coco_panoptic/RQ']),
}  # fmt: skip
# Of the usual 16 images of validation each one were six points of a classifier's top-1.
DATA = dict(classifier=['--num-train', 400, '--num-val', 100])
TRAINING = dict(
    classifier=['--cfg-options', 'train_cfg.max_epochs=10', 'param_scheduler.1.end=10'],
)
# A classifier's pipeline gives images of one size. The detector's has to: with windows in twelve
# blocks torch.export thinks for minutes about sizes that are dynamic.
SIZES = dict(
    classifier=[],
    mask_rcnn=['--size', 96, 128],
    upernet=['--dynamic-size'],
    eomt=['--dynamic-size'],
)
OPTIONS = dict(mask_rcnn=['--cfg-options', 'test_dataloader.dataset.pipeline.1.keep_ratio=False'])
# COCO's metrics of objects lie between 0 and 1, all others between 0 and 100.
POINTS = 100


def run(folder: Path, tool: str, *arguments: str | int | Path) -> None:
    """Run one of the tools in a folder, where the configs look for their data."""
    command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{tool} {" ".join(command[2:])}:\n{done.stderr[-2000:]}')


def train(folder: Path, config: str | Path, options: list[str]) -> Path:
    """The last checkpoint of a config, which is trained where there is none."""
    work_dir = folder / Path(config).stem
    if not (work_dir / 'last_checkpoint').is_file():
        run(folder, 'train.py', config, '--work-dir', work_dir, *options)
    return work_dir / Path((work_dir / 'last_checkpoint').read_text().strip()).name


def evaluate(
    folder: Path, config: str | Path, file: Path, names: list[str], options: list[str]
) -> dict[str, float]:
    """Metrics of a checkpoint or an exported file, in percent."""
    work_dir = folder / 'tested' / file.name
    run(folder, 'test.py', config, file, '--work-dir', work_dir, *options)
    written = max(work_dir.glob('*/*.json'), key=os.path.getmtime)
    found = json.loads(written.read_text())
    return {name: found[name] * (POINTS if name.startswith('coco/') else 1) for name in names}


def measure(name: str, folder: Path, formats: list[str]) -> dict:
    (config, data, metrics), options = TRAINED[name], OPTIONS.get(name, [])
    run(folder, 'make_sample_data.py', data, *DATA.get(name, []))
    if name == 'eomt':
        config = folder / 'eomt.py'
        config.write_text(EOMT.format(base=str(ROOT / 'configs' / 'kat_s_eomt_panoptic_coco.py')))
    checkpoint = train(folder, config, TRAINING.get(name, []))
    result = dict(metrics=dict(checkpoint=evaluate(folder, config, checkpoint, metrics, options)))
    out = folder / name
    run(folder, 'export.py', config, checkpoint, '--out', out, '--format', *formats, *SIZES[name])
    for format in formats:
        file = out.with_name(out.name + SUFFIXES[format])
        result['metrics'][format] = evaluate(folder, config, file, metrics, options)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', choices=list(TRAINED), default=list(TRAINED))
    parser.add_argument(
        '--formats', nargs='+', choices=list(SUFFIXES), default=['onnx', 'openvino']
    )
    parser.add_argument('--folder', type=Path, default=Path('work_dirs/exported_metrics'))
    parser.add_argument('--out', type=Path, default=RESULTS)
    args = parser.parse_args()
    file, folder = args.out / 'metrics.json', args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    packages = {name: version(name) for name in ('onnxruntime', 'openvino', 'onnx')}
    for name in args.models:
        result = measure(name, folder, args.formats)
        result['machine'] = {**machine(), **packages}
        for kind, values in result['metrics'].items():
            print(name, kind, values, flush=True)
        results = json.loads(file.read_text()) if file.is_file() else {}
        save({**results, name: result}, file)
    if args.out == RESULTS:
        write_tables(PAGE, RESULTS)


if __name__ == '__main__':
    main()
