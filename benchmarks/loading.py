"""What the training process waits for a batch that its worker has made before.

A worker hands over prepared batches, collated as mmengine does and as our configs for dense
prediction do, while the training process is busy for longer than the worker needs; then the time is
taken until the next batch is there, and until its bytes have been read once.
"""

import copy
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import detection
import segmentation
from mmengine.dataset import pseudo_collate
from timing import machine, save, spread
from torch.utils.data import DataLoader, IterableDataset

from kat_mm.datasets import packed_collate

COLLATES = {'mmengine': pseudo_collate, 'kat_mm': packed_collate}
BUSY = 0.4  # seconds of the training process between batches
CLASSES = 20


def objects(images: int, size: int) -> dict:
    """Each image with detection.OBJECTS_PER_IMAGE objects, which have masks."""
    return detection.random_batch(size, images, CLASSES)


def label_maps(images: int, size: int) -> dict:
    return segmentation.random_batch([((size, size), (size, size))] * images, CLASSES)


# Images of a batch and their side.
CASES = {
    'objects, 4 of 1024x1024': (objects, 4, 1024),
    'objects, 8 of 640x640': (objects, 8, 640),
    'label maps, 16 of 512x512': (label_maps, 16, 512),
}


def run(out_dir: Path, quick: bool) -> None:
    """Measure, print and write results.json."""
    batches, busy = (2, 0.0) if quick else (12, BUSY)
    results = dict(settings=dict(batches=batches, busy_s=busy), machine=machine(), cases={})
    for name, (make, images, size) in CASES.items():
        images, size = (2, 64) if quick else (images, size)
        batch = make(images, size)
        samples = [dict(zip(batch, one, strict=True)) for one in zip(*batch.values(), strict=True)]
        found = {
            which: wait(samples, images, collate, batches, busy)
            for which, collate in COLLATES.items()
        }
        medians = [found[which]['ms']['median'] for which in COLLATES]
        results['cases'][name] = dict(found, ratio=round(medians[1] / medians[0], 3))
        print(name, {which: round(one['ms']['median'], 1) for which, one in found.items()})
    save(results, out_dir / 'results.json')


class Endless(IterableDataset):
    """Copies of the same samples again and again: memory that was shared once would stay so."""

    def __init__(self, samples: list[dict]):
        self.samples = samples

    def __iter__(self) -> Iterator[dict]:
        return map(copy.deepcopy, itertools.cycle(self.samples))


def wait(samples: list[dict], images: int, collate, batches: int, busy: float) -> dict:
    """Milliseconds for a batch to be there, and to be there and read."""
    loader = DataLoader(Endless(samples), images, num_workers=1, collate_fn=collate)
    iterator = iter(loader)
    next(iterator)  # the worker has started
    there, read = [], []
    for _ in range(batches):
        time.sleep(busy)
        start = time.perf_counter()
        batch = next(iterator)
        there.append(1e3 * (time.perf_counter() - start))
        look_at(batch)
        read.append(1e3 * (time.perf_counter() - start))
    return dict(ms=spread(there), read_ms=spread(read))


def look_at(batch: dict) -> None:
    for image, sample in zip(*batch.values(), strict=True):
        image.max()
        if 'gt_instances' in sample:
            sample.gt_instances.masks.masks.max()
        else:
            sample.gt_sem_seg.data.max()
