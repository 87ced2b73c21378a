"""The class of the largest logit at each pixel of a resampled map, in one pass.

A map is resampled by rows and by columns: each row of the result is a sum of a few rows of the map,
with weights; likewise each column. One bilinear resize is of this kind, and so are several in a
row, windows that overlap and are averaged, padding that is cut off, and a flip. The resampled
logits, as many as classes times pixels, are never held.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import resampled_argmax_eager as eager
from .common import backend
from .common.checks import check_device, check_maps
from .common.registration import Operator

kernels = backend.import_kernels(__name__)


class Taps(NamedTuple):
    """Which rows (or columns) of a map each of N rows of the result is made of, and how much.

    Attributes:
        index: (N, T), int32. What is not used is 0.
        weight: (N, T), float64. What is not used is 0.
        count: (N,), int32: how many of the T are used, the first ones.
    """

    index: Tensor  # type: ignore[assignment]  # in place of tuple's method
    weight: Tensor
    count: Tensor  # type: ignore[assignment]

    @classmethod
    def of(cls, matrix: Tensor) -> 'Taps':
        """Of a matrix (N, size of the map), most of whose entries are zero."""
        used = matrix != 0
        count = used.sum(dim=1)
        row, index = used.nonzero(as_tuple=True)
        tap = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        shape = len(matrix), max(1, int(count.max()))
        table = cls(
            torch.zeros(shape, dtype=torch.int32),
            torch.zeros(shape, dtype=torch.float64),
            count.int(),
        )
        table.index[row, tap] = index.int()
        table.weight[row, tap] = matrix[row, index]
        return table

    def matrix(self, size: int) -> Tensor:
        """What ``of`` made it from, for a map of ``size`` rows."""
        zeros = self.weight.new_zeros(len(self.weight), size)
        return zeros.scatter_add(1, self.index.long(), self.weight)


def bilinear_rows(matrix: Tensor, size: int, align_corners: bool) -> Tensor:
    """What ``matrix`` makes of a map, resized bilinearly to ``size`` rows, as one matrix."""
    rows = len(matrix)
    position = torch.arange(size, dtype=torch.float64)
    if align_corners:
        position *= (rows - 1) / max(size - 1, 1)
    else:
        position = (position + 0.5) * (rows / size) - 0.5
    position.clamp_(0, rows - 1)
    first = position.floor().long()
    weight = (position - first)[:, None]
    second = (first + 1).clamp(max=rows - 1)
    return (1 - weight) * matrix[first] + weight * matrix[second]


def resampled_argmax(logits: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Classes of the largest resampled logits, among equal ones the first.

    Arithmetic is in float32 for half precision. Not differentiable.

    Args:
        logits: (B, K, h, w), any strides. float16, bfloat16, float32 or float64.
        rows: What each of H rows is made of; indices below h.
        columns: What each of W columns is made of; indices below w.

    Returns:
        Tensor (B, H, W) of dtype int64.

    Raises:
        ValueError: logits have not four dimensions, or lie on another device than the taps.
        TypeError: logits are no floating-point tensor.
    """
    check_maps('resampled_argmax', 'logits', logits)
    for name, taps in (('rows', rows), ('columns', columns)):
        check_device('resampled_argmax', name, taps.index, 'logits', logits)
    return _operator(logits, *rows, *columns)


def _forward(logits: Tensor, *taps: Tensor) -> Tensor:
    module = kernels if backend.runs_kernels(logits) else eager
    return module.forward(logits, Taps(*taps[:3]), Taps(*taps[3:]))


def _fake(logits: Tensor, *taps: Tensor) -> Tensor:
    return eager.empty_labels(logits, Taps(*taps[:3]), Taps(*taps[3:]))


_operator = Operator(
    'resampled_argmax',
    '(Tensor logits, Tensor row_index, Tensor row_weight, Tensor row_count,'
    ' Tensor column_index, Tensor column_weight, Tensor column_count) -> Tensor',
    forward=_forward,
    fake=_fake,
)
