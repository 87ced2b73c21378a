"""Batches that travel from a data loader's workers in few pieces."""

from typing import Any

import torch
from torch import Tensor


class CompactSamples(list):
    """Data samples of mmpretrain with a label each, which are pickled as one tensor of labels.

    A sample on its own travels with a tensor in shared memory, which takes the receiving process
    longer than a small model takes to train on the image.
    """

    def __reduce__(self):
        metas = [sample.metainfo for sample in self]
        return _unpack, (type(self[0]), torch.cat([sample.gt_label for sample in self]), metas)

    def pin_memory(self) -> 'CompactSamples':
        """Labels go to the device with the targets that are made from them."""
        return self


def _unpack(cls: type, labels: Tensor, metas: list[dict]) -> CompactSamples:
    samples = CompactSamples(cls() for _ in metas)
    for sample, meta, label in zip(samples, metas, labels.split(1), strict=True):
        # As the constructor and set_gt_label do, but for copies and checks of what was one before.
        sample.set_field(label, 'gt_label', dtype=Tensor)
        for name, value in meta.items():
            sample.set_field(value, name, field_type='metainfo')
    return samples


def compact_collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples of ``PackInputs`` of mmpretrain: images of one size, with one label each.

    Args:
        batch: Each a dict of ``inputs`` (C, H, W) and ``data_samples``, a ``DataSample`` with
            ``gt_label`` (1,).

    Returns:
        dict of ``inputs`` (B, C, H, W) and ``data_samples``, a list of B.
    """
    return dict(
        inputs=torch.stack([item['inputs'] for item in batch]),
        data_samples=CompactSamples(item['data_samples'] for item in batch),
    )
