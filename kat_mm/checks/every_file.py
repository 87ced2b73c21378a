"""All files of the data sets of a config, read once."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from kat_mm.checks.classes import class_names
from kat_mm.checks.progress import Progress
from kat_mm.datasets.image_files import bits_per_channel, jpeg_problem
from kat_mm.datasets.loading import check_loading, is_loading
from kat_mm.datasets.wrappers import inner_datasets
from kat_mm.errors import UserError, config_errors


class Report(NamedTuple):
    """What was found in a data set.

    Attributes:
        dataset: Its config.
        samples: How many samples were read.
        damaged: What is wrong with each sample that does not load.
        many_bits: Images of more than 8 bits per channel, of which the upper 8 are used.
        absent: Names of classes of which no label image has a pixel, or no image an object.
    """

    dataset: dict
    samples: int
    damaged: list[str]
    many_bits: list[str]
    absent: list[str]


def read_every_file(cfg: Config, split: str, num_workers: int = 0) -> Iterator[Report]:
    """Load each sample of a split's data sets, as training and testing do.

    Args:
        cfg: The config.
        split: 'train', 'val' or 'test'.
        num_workers: Processes that read. Default: none but this one.

    Yields:
        A report for each data set, without its wrappers.

    Raises:
        UserError: A data set cannot be built.
    """
    loader = cfg.get(f'{split}_dataloader')
    for dataset in inner_datasets(loader['dataset']) if loader else ():
        yield _read(dataset, split, num_workers)


def _read(dataset: dict, split: str, num_workers: int) -> Report:
    pipeline = [dict(step) for step in dataset.get('pipeline') or [] if is_loading(step)]
    loading = {**dataset, 'pipeline': pipeline}
    check_loading(loading)
    with config_errors():
        samples = _Samples(DATASETS.build(loading))
    batches = DataLoader(samples, batch_size=16, num_workers=num_workers, collate_fn=list)
    damaged, many_bits, found, seen = [], [], set(), 0
    progress = Progress(f'samples of {split}')
    for batch in batches:
        for sample in batch:
            if sample.problem:
                damaged.append(sample.problem)
            if sample.many_bits:
                many_bits.append(sample.many_bits)
            if sample.labels is not None:
                found.update(sample.labels.tolist())
        seen += len(batch)
        progress(seen, len(samples))
    names = class_names(dataset, type(samples.dataset), split) or ()
    absent = [name for label, name in enumerate(names) if label not in found] if found else []
    return Report(dataset, seen, damaged, many_bits, absent)


class _Sample(NamedTuple):
    problem: str | None
    many_bits: str | None
    labels: np.ndarray | None  # those of its pixels or objects


class _Samples(Dataset):
    """Whether each sample loads."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Sample:
        # Not dataset[index], which may go on to another sample.
        info = self.dataset.get_data_info(index)
        path = info.get('img_path')
        try:
            results = self.dataset.pipeline(info)
        except UserError as error:
            return _Sample(str(error), None, None)
        results = results or {}
        labels = results.get('gt_bboxes_labels')
        if labels is None and (labels := results.get('gt_seg_map')) is not None:
            labels = np.flatnonzero(np.bincount(labels.ravel()))
        if path is None or not os.path.isfile(path):
            return _Sample(None, None, labels)
        said = jpeg_problem(path)
        problem = said and (
            f'{path} is damaged, and what cannot be read of it becomes grey or noise: {said}. '
            'Replace it, or remove the sample from the data set'
        )
        return _Sample(problem, path if bits_per_channel(path) > 8 else None, labels)
