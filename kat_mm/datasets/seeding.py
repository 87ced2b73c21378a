"""Augmentation that depends on the position in training alone.

mmengine seeds the workers of a data loader. What a sample draws then depends on the worker that
gets it and on all that this worker drew before, so neither a resumed run nor one with another
number of processes or workers sees the same images. Here each sample carries its own seed.
"""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import DefaultSampler, InfiniteSampler


class SeededIndex(int):
    """Index of a sample with the seed of its augmentation."""

    def __new__(cls, index: int, seed: int):
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self):  # travels to the worker with its seed
        return SeededIndex, (int(self), self.seed)


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


class SeededSampler(DefaultSampler):
    """mmengine's DefaultSampler, whose indices carry a seed for ``SeedAugmentation``.

    For training by epochs: the seed comes from the sampler's seed, the epoch and the sample's
    position in the epoch that all processes share.
    """

    def __iter__(self) -> Iterator[int]:
        seeds = np.random.default_rng((self.seed, self.epoch)).integers(2**32, size=self.total_size)
        own = seeds[self.rank : self.total_size : self.world_size]
        for index, seed in zip(super().__iter__(), own, strict=True):
            yield SeededIndex(index, int(seed))


class SeedAugmentation(BaseTransform):
    """Seed Python, NumPy and PyTorch for one sample; the first transform of a pipeline.

    Required keys: ``sample_idx``, from a ``SeededInfiniteSampler`` or a ``SeededSampler``. With
    another sampler it does nothing.
    """

    def transform(self, results: dict) -> dict:
        seed = getattr(results.get('sample_idx'), 'seed', None)
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            # Not torch.manual_seed, which takes 70 times as long: it queues the seed for GPUs too.
            torch.default_generator.manual_seed(seed)
        return results
