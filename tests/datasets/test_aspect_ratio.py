import itertools

import pytest

from kat_mm.datasets import SeededAspectRatioSampler, SeededInfiniteSampler

SIZE = 7


def take(indices, count):
    return [(int(index), index.seed) for index in itertools.islice(indices, count)]


class Shapes:
    """As a data set of mmdet: every third image is a portrait."""

    def __len__(self):
        return SIZE

    def get_data_info(self, index):
        return dict(width=3, height=4) if index % 3 == 0 else dict(width=4, height=4)


def shape_sampler(rank=0, world_size=1, monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world_size))
    return SeededAspectRatioSampler(Shapes(), group_size=4, seed=5)


def test_groups_have_one_orientation():
    stream = take(shape_sampler(), 200)
    groups = [[index % 3 == 0 for index, _ in stream[i : i + 4]] for i in range(0, 200, 4)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == 2


def test_grouping_moves_samples_and_loses_none():
    # At most 3 of each orientation wait for their group.
    plain = set(take(SeededInfiniteSampler(range(SIZE), seed=5), 203))
    grouped = take(shape_sampler(), 196)
    assert len(set(grouped)) == 196 and set(grouped) <= plain


def test_grouped_batches_of_two_processes_are_those_of_one(monkeypatch):
    alone = take(shape_sampler(), 40)
    ranks = [take(shape_sampler(rank, 2, monkeypatch), 20) for rank in (0, 1)]
    for start in range(0, 20, 2):
        together = [sample for rank in ranks for sample in rank[start : start + 2]]
        assert sorted(together) == sorted(alone[2 * start : 2 * start + 4])


def test_skipping_goes_on_where_the_grouped_stream_was(monkeypatch):
    whole = take(shape_sampler(1, 2, monkeypatch), 40)
    skipped = shape_sampler(1, 2, monkeypatch)
    skipped.skip(17)
    assert take(skipped, 23) == whole[17:]


def test_a_group_needs_a_member():
    with pytest.raises(ValueError, match='group_size=0 must be positive'):
        SeededAspectRatioSampler(Shapes(), group_size=0)
