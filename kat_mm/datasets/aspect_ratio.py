import functools
from collections.abc import Iterator, Sized

from .seeding import SeededInfiniteSampler


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
