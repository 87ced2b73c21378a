"""Augmentation that depends on the position in training alone.

mmengine seeds the workers of a data loader. What a sample draws then depends on the worker that
gets it and on all that this worker drew before, so neither a resumed run nor one with another
number of processes or workers sees the same images. Here each sample carries its own seed.
"""

import functools
import itertools
import random
from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, TRANSFORMS


class SeededIndex(int):
    """Index of a sample with the seed of its augmentation."""

    def __new__(cls, index: int, seed: int):
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self):  # travels to the worker with its seed
        return SeededIndex, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """mmengine's InfiniteSampler, whose indices carry a seed for ``SeedAugmentation``.

    The seed comes from the sampler's seed and the sample's position in the stream that all
    processes share. Two processes with batch size 2 therefore see the images of one process with
    batch size 4.
    """

    def _infinite_indices(self) -> Iterator[int]:
        for position, index in zip(itertools.count(), super()._infinite_indices()):
            state = np.random.SeedSequence((self.seed, position)).generate_state(1)
            yield SeededIndex(index, int(state[0]))


@DATA_SAMPLERS.register_module()
class SeededAspectRatioSampler(SeededInfiniteSampler):
    """SeededInfiniteSampler with portraits and landscapes in groups, which saves padding.

    Does what mmdet's AspectRatioBatchSampler does, for all processes together, and such that a
    resumed run can go on where it was without loading what it had seen.

    Args:
        dataset: A data set of mmdet, whose samples know their ``width`` and ``height``.
        group_size: Images in a row that have one orientation. Best is the total batch size of all
            processes, or a multiple of it.
        shuffle: Whether to shuffle. Default: True.
        seed: Seed of the order. Default: None, the runner's.
    """

    def __init__(
        self, dataset: Sized, group_size: int, shuffle: bool = True, seed: int | None = None
    ):
        super().__init__(dataset, shuffle, seed)
        if group_size < 1:
            raise ValueError(f'SeededAspectRatioSampler: group_size={group_size} must be positive')
        self.group_size = group_size

    @functools.cached_property
    def _is_portrait(self) -> list[bool]:
        samples = map(self.dataset.get_data_info, range(self.size))
        return [sample['width'] < sample['height'] for sample in samples]

    def _infinite_indices(self) -> Iterator[int]:
        groups = [], []
        for index in super()._infinite_indices():
            group = groups[self._is_portrait[index]]
            group.append(index)
            if len(group) == self.group_size:
                yield from group
                group.clear()


@TRANSFORMS.register_module()
class SeedAugmentation(BaseTransform):
    """Seed Python, NumPy and PyTorch for one sample; the first transform of a pipeline.

    Required keys: ``sample_idx``, from a ``SeededInfiniteSampler`` or its kind. With another
    sampler it does nothing.
    """

    def transform(self, results: dict) -> dict:
        seed = getattr(results.get('sample_idx'), 'seed', None)
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        return results
