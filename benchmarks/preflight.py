"""What the checks before a run cost, beside mmdet's and mmpretrain's own loading of the same data.

Draws an annotation file of the size of COCO 2017's and folders of the size of ImageNet's, whose
images are empty files: the checks list them, and the loading too. Each measurement has a process of
its own, whose peak memory the system tells.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import machine, save

IMAGES, OBJECTS, CLASSES = 118_287, 860_001, 80
TRAIN, VAL = 1_281_167, 50_000
WIDTH, HEIGHT = 640, 480
TARGET = {'seconds': 20, 'peak_gb': 0.5}


def draw_coco(folder: Path, images: int = IMAGES, objects: int = OBJECTS) -> None:
    """Write train.json and train/*.jpg, with polygons of as many points as COCO's (29)."""
    rng = np.random.default_rng(0)
    (folder / 'train').mkdir(parents=True)
    names = [f'{number:012d}.jpg' for number in range(images)]
    for name in names:
        (folder / 'train' / name).touch()
    shapes = [_draw_shape(rng) for _ in range(2000)]
    with open(folder / 'train.json', 'w') as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for number, name in enumerate(names):
            record = dict(id=number, file_name=name, width=WIDTH, height=HEIGHT, license=1)
            file.write((', ' if number else '') + json.dumps(record))
        file.write('], "annotations": [')
        choices = rng.integers(0, [images, CLASSES, len(shapes)], (objects, 3)).tolist()
        for number, (image, category, shape) in enumerate(choices):
            beginning = f'"id": {number + 1}, "image_id": {image}, "category_id": {category}'
            file.write(f'{", " if number else ""}{{{beginning}, {shapes[shape]}}}')
        categories = [dict(id=number, name=f'class {number}') for number in range(CLASSES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _draw_shape(rng: np.random.Generator) -> str:
    if rng.random() < 0.012:  # crowds
        counts = [WIDTH * HEIGHT // 2 - 500, 1000, WIDTH * HEIGHT // 2 - 500]
        mask = dict(counts=counts, size=[HEIGHT, WIDTH])
        record = dict(segmentation=mask, area=1000, bbox=[310, 0, 20, HEIGHT], iscrowd=1)
    else:
        size = rng.uniform(10, 200, 2)
        corner = rng.uniform(0, [WIDTH, HEIGHT] - size)
        angles = np.linspace(0, 2 * np.pi, rng.integers(8, 50), endpoint=False)
        points = corner + size / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], 1))
        first, last = points.min(0), points.max(0)
        record = dict(
            segmentation=[points.ravel().round(2).tolist()],
            area=round(float(np.prod(size)) * 0.78, 2),
            bbox=np.concatenate([first, last - first]).round(2).tolist(),
            iscrowd=0,
        )
    return json.dumps(record)[1:-1]


def draw_imagenet(folder: Path, train: int = TRAIN, val: int = VAL) -> None:
    """Write train/<class>/*.JPEG and val/<class>/*.JPEG of 1000 classes."""
    for split, number in (('train', train), ('val', val)):
        for index in range(1000):
            path = folder / split / f'n{index:08d}'
            path.mkdir(parents=True)
            for image in range(index, number, 1000):
                (path / f'{path.name}_{image}.JPEG').touch()


def _dataset(kind: str, folder: Path) -> dict:
    if kind == 'coco':
        return dict(
            type='mmdet.CocoDataset',
            data_root=str(folder),
            ann_file='train.json',
            data_prefix=dict(img='train'),
            metainfo=dict(classes=tuple(f'class {number}' for number in range(CLASSES))),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        )
    return dict(
        type='mmpretrain.CustomDataset', data_root=str(folder), data_prefix='train', pipeline=[]
    )


def measure(kind: str, folder: Path, steps: tuple[str, ...], connection) -> None:
    """Check a data set, load it, or both; send seconds of each step and the peak memory.

    Seconds are the processor's, of this process: others may work on the machine. Those of the clock
    are sent too.
    """
    from mmengine.config import Config
    from mmengine.registry import DATASETS, init_default_scope

    import kat_mm  # noqa: F401
    from kat_mm.checks.data import check_data

    scope = {'coco': 'mmdet', 'imagenet': 'mmpretrain'}[kind]
    __import__(f'{scope}.datasets')
    init_default_scope(scope)
    dataset = _dataset(kind, folder)
    before, seconds, clock = _peak_gb(), {}, {}
    for step in steps:
        start = time.process_time(), time.perf_counter()
        if step == 'check':
            check_data(Config(dict(train_dataloader=dict(dataset=dataset))), ['train'])
        else:
            len(DATASETS.build(dataset))
        seconds[step] = round(time.process_time() - start[0], 1)
        clock[step] = round(time.perf_counter() - start[1], 1)
    connection.send(
        dict(seconds=seconds, clock_seconds=clock, peak_gb=_peak_gb(), imports_gb=before)
    )


def _peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)  # Linux: KiB


def _in_process(*args) -> dict:
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(*args, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return result


def run(out_dir: Path, scale: float = 1.0) -> None:
    """Draw, measure, print and write results.json.

    Args:
        out_dir: Where the results go.
        scale: Part of COCO's and ImageNet's sizes. Default: all.
    """
    counts = {
        'coco': dict(images=int(IMAGES * scale), objects=int(OBJECTS * scale)),
        'imagenet': dict(train=int(TRAIN * scale), val=int(VAL * scale)),
    }
    results = {'machine': machine(), 'target_above_loading': TARGET}
    with tempfile.TemporaryDirectory() as temporary:
        for kind, draw in (('coco', draw_coco), ('imagenet', draw_imagenet)):
            folder = Path(temporary) / kind
            draw(folder, **counts[kind])
            # Once before, so that each finds the files in the system's cache.
            _in_process(kind, folder, ('load',))
            load = _in_process(kind, folder, ('load',))
            check = _in_process(kind, folder, ('check',))
            both = _in_process(kind, folder, ('check', 'load'))
            above = {
                'seconds': round(sum(both['seconds'].values()) - load['seconds']['load'], 1),
                'peak_gb': round(both['peak_gb'] - load['peak_gb'], 2),
            }
            results[kind] = dict(
                counts[kind],
                load=load,
                check=check,
                check_and_load=both,
                above_loading=above,
            )
            print(
                f'{kind:9} loading {load["seconds"]["load"]} s, {load["peak_gb"]} GB; checks '
                f'{check["seconds"]["check"]} s, {check["peak_gb"]} GB; both are above loading by '
                f'{above["seconds"]} s, {above["peak_gb"]} GB'
            )
    save(results, out_dir / 'results.json')
