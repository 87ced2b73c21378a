import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset

from kat_mm.datasets import SeedAugmentation, SeededInfiniteSampler

SIZE = 7


class Samples(Dataset):
    """Hands its index on, as mmengine's data sets do, and draws random numbers."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        SeedAugmentation()(dict(sample_idx=index))
        return int(index), getattr(index, 'seed', None), *draw()


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def sampler(rank=0, world_size=1, seed=5, monkeypatch=None, **kwargs):
    if monkeypatch:
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world_size))
    return SeededInfiniteSampler(range(SIZE), seed=seed, **kwargs)


def take(indices, count):
    return [(int(index), index.seed) for index in itertools.islice(indices, count)]


def test_indices_are_those_of_mmengines_sampler():
    expected = itertools.islice(InfiniteSampler(range(SIZE), seed=5), 4 * SIZE)
    assert [index for index, _ in take(sampler(), 4 * SIZE)] == list(expected)


def test_every_position_has_its_own_seed():
    first, other = take(sampler(), 1000), take(sampler(seed=6), 1000)
    seeds = [seed for _, seed in first + other]
    # 2000 draws from 2 ** 32: a repeat would be a rare chance, and this is no chance.
    assert len(set(seeds)) == 2000


def test_the_same_seed_gives_the_same_stream():
    assert take(sampler(), 30) == take(sampler(), 30)


def test_two_processes_have_the_batches_of_one_with_twice_the_batch_size(monkeypatch):
    alone = take(sampler(), 24)
    ranks = [take(sampler(rank, 2, monkeypatch=monkeypatch), 12) for rank in (0, 1)]
    for start in range(0, 12, 2):
        together = [sample for rank in ranks for sample in rank[start : start + 2]]
        assert sorted(together) == sorted(alone[2 * start : 2 * start + 4])


@pytest.mark.parametrize('rank', [0, 1])
def test_skipping_goes_on_where_the_stream_was(monkeypatch, rank):
    whole = take(sampler(rank, 2, monkeypatch=monkeypatch), 40)
    skipped = sampler(rank, 2, monkeypatch=monkeypatch)
    skipped.skip(17)
    assert take(skipped, 23) == whole[17:]


def test_an_index_keeps_its_seed_through_pickling():
    index = next(iter(sampler()))
    copy = pickle.loads(pickle.dumps(index))
    assert copy == index
    assert copy.seed == index.seed
    assert range(SIZE)[copy] == int(index)


def batches(num_workers, count=8):
    loader = DataLoader(
        Samples(), batch_size=3, sampler=sampler(), num_workers=num_workers, collate_fn=list
    )
    return list(itertools.islice(loader, count))


def test_the_number_of_workers_changes_nothing():
    expected = batches(0)
    assert [sample[:2] for batch in expected for sample in batch] == take(sampler(), 24)
    random.seed(99)
    assert batches(2) == expected


def test_augmentation_draws_the_same_numbers_for_the_same_seed():
    index, other = itertools.islice(sampler(), 2)
    SeedAugmentation()(dict(sample_idx=index))
    expected = draw()
    SeedAugmentation()(dict(sample_idx=other))
    differing = draw()
    SeedAugmentation()(dict(sample_idx=index))
    assert draw() == expected
    assert all(a != b for a, b in zip(expected, differing, strict=True))


def test_the_sample_itself_is_handed_on():
    results = dict(sample_idx=next(iter(sampler())), img=1)
    assert SeedAugmentation()(results) == results


def test_with_another_sampler_random_numbers_stay_random():
    index = next(iter(DefaultSampler(range(SIZE), seed=0)))
    before = draw()
    SeedAugmentation()(dict(sample_idx=index))
    after = draw()
    SeedAugmentation()(dict(sample_idx=index))
    assert len({before, after, draw()}) == 3


def test_without_shuffling_samples_come_in_order():
    assert [index for index, _ in take(sampler(shuffle=False), 9)] == [0, 1, 2, 3, 4, 5, 6, 0, 1]
