"""Batches that travel from a data loader's workers in few pieces."""

import io
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.utils.data import get_worker_info

_ALIGNMENT = 64  # of arrays in a batch's memory, in bytes: a line of the cache


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


class PackedBatch:
    """A batch on its way from a worker, its tensors and arrays in one shared memory.

    Each tensor would come in a memory of its own, which takes a connection to the worker, and
    arrays, such as the masks of objects, through a pipe of 64 KiB at a time, while the GPU waits.
    What arrives is the batch itself, whose parts keep the whole memory while they live. Tensors
    arrive contiguous, and those that were views of one another are so no more.
    """

    def __init__(self, batch: Any):
        stream, arrays = io.BytesIO(), []
        _Packer(stream, protocol=5, buffer_callback=arrays.append).dump(batch)
        views = [array.raw() for array in arrays]
        sizes = [len(view) for view in views]
        # As PyTorch's own collate function does: ``share_memory_`` would copy what is empty.
        shared = torch.UntypedStorage._new_shared(sum(map(_aligned, sizes)), device='cpu')
        memory = torch.tensor([], dtype=torch.uint8).set_(shared)
        for place, view in zip(_places(memory, sizes), views, strict=True):
            place[:] = view
        self.parts = stream.getvalue(), memory, sizes

    def __reduce__(self):
        return _unpack_batch, self.parts


class _Packer(pickle.Pickler):
    """Tensors become arrays, which are handed over apart from the stream."""

    def reducer_override(self, obj):
        if type(obj) is np.ndarray and not obj.flags.writeable and not obj.dtype.hasobject:
            return np.asarray, (obj.copy(),)  # which arrives writable, as by the pipe
        if (
            type(obj) is Tensor
            and obj.device.type == 'cpu'
            and obj.layout is torch.strided
            and not (obj.requires_grad or obj.is_quantized)
        ):
            # As bytes, since NumPy lacks some dtypes.
            values = obj.resolve_conj().resolve_neg().contiguous()
            values = values.as_strided((values.numel(),), (1,))  # that of one number may be any
            return _tensor_of, (values.view(torch.uint8).numpy(), obj.dtype, obj.shape)
        return NotImplemented


def _tensor_of(values: np.ndarray, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.from_numpy(values).view(dtype).view(shape)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _places(memory: Tensor, sizes: list[int]) -> Iterator[memoryview]:
    whole, start = memoryview(memory.numpy()), 0
    for size in sizes:
        yield whole[start : start + size]
        start += _aligned(size)


def _unpack_batch(stream: bytes, memory: Tensor, sizes: list[int]) -> Any:
    return pickle.loads(stream, buffers=_places(memory, sizes))


def packed_collate(batch: list) -> Any:
    """Collate as ``pseudo_collate`` of mmengine; what a worker collates travels in one piece.

    Args:
        batch: Samples of any task, such as dicts of ``inputs`` and ``data_samples``.

    Returns:
        What ``pseudo_collate`` gives, such as a dict with a list of B for each key; in a worker a
        :class:`PackedBatch`, which arrives as that.
    """
    collated = pseudo_collate(batch)
    # Here and not as it is sent: what cannot be is told in the training process.
    return collated if get_worker_info() is None else PackedBatch(collated)
