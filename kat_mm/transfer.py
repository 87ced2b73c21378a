"""Tensors between host and device, for which the host does not wait."""

import functools
from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


@functools.lru_cache(256)
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of a few numbers, copied to a device once: a copy waits for the device."""
    return torch.tensor(values, dtype=dtype).to(device)


def send(values: Sequence, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of numbers that differ from step to step, without waiting for the device."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor


def send_joined(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors of the host and of one size but for the first dimension, one behind the other."""
    shape = sum(map(len, tensors)), *tensors[0].shape[1:]
    joined = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=device.type == 'cuda')
    for place, tensor in zip(joined.split([*map(len, tensors)]), tensors, strict=True):
        place.copy_(tensor)
    return joined.to(device, non_blocking=True)


def pinned(data):
    """Batches with their tensors in pinned memory, which travel while the host goes on."""
    if isinstance(data, Tensor):
        # An expanded tensor cannot be pinned.
        return data if data.is_cuda or data.is_pinned() else data.contiguous().pin_memory()
    if isinstance(data, BaseDataElement):
        moved = data.new()
        moved.set_data({name: pinned(value) for name, value in data.items()})
        return moved
    if isinstance(data, dict):
        return type(data)((name, pinned(value)) for name, value in data.items())
    if type(data) in (list, tuple):
        return type(data)(map(pinned, data))
    if isinstance(getattr(data, 'tensor', None), Tensor):  # mmdet's boxes
        return type(data)(pinned(data.tensor), clone=False)
    return data


class Receive:
    """A tensor on its way from a device, to be asked for when there is no more to launch."""

    def __init__(self, tensor: Tensor):
        self._host, self._event = tensor, None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def get(self) -> Tensor:
        """The tensor on the host; waits for what comes before it on the device, and no more."""
        if self._event is not None:
            self._event.synchronize()
        return self._host

    def list(self) -> list:
        return self.get().tolist()
