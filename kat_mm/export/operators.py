"""Operators that exported programs need: which of PyTorch's are rewritten, and which are added."""

import torch
import torchvision
from torch import Tensor

from kat_mm.ops import fourier_low_rank_standard, group_rational_standard


def adaptive_avg_pool2d(x: Tensor, output_size: list[int]) -> Tensor:
    """PyTorch's adaptive pooling as two matrix products: for maps whose size is not known.

    Cell i of n averages positions floor(i L / n) to ceil((i + 1) L / n) of L.
    """
    rows, columns = (
        _averages(cells, x.shape[axis], x) for cells, axis in zip(output_size, (2, 3), strict=True)
    )
    return rows @ x @ columns.T


def _averages(cells: int, length: int, like: Tensor) -> Tensor:
    """(cells, length): the weight of each position in each cell."""
    position = torch.arange(length, device=like.device)
    cell = torch.arange(cells, device=like.device)[:, None]
    begin = torch.div(cell * length, cells, rounding_mode='floor')
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode='floor')
    inside = ((position >= begin) & (position < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def decompositions() -> dict:
    """What is written in other operators before a program is translated."""
    aten = torch.ops.aten
    return {
        torch.ops.kat_mm.group_rational.default: group_rational_standard.group_rational,
        torch.ops.kat_mm.fourier_low_rank.default: fourier_low_rank_standard.fourier_low_rank,
        aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d,
    }


@torch.library.custom_op('kat_mm_export::nms_mask', mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes stay after non-maximum suppression, in a result whose size is known.

    Args:
        boxes: (B, N, 4), corners.
        scores: (B, N).
        iou_threshold: A box goes that overlaps more than this with a better one.

    Returns:
        (B, N), bool.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for row, box, score in zip(keep, boxes, scores, strict=True):
        row[torchvision.ops.nms(box, score, iou_threshold)] = True
    return keep


@nms_mask.register_fake
def _(boxes, scores, iou_threshold):
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict:
    """ONNX's operators in place of ours."""
    from onnxscript import FLOAT, INT64, ir
    from onnxscript import opset18 as op

    def translate(boxes: FLOAT, scores: FLOAT, iou_threshold: float) -> INT64:
        all_boxes = op.Shape(scores, start=1, end=2)
        threshold = op.Constant(value_floats=[iou_threshold])
        # (K, 3): image, class and box of what stays.
        chosen = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), all_boxes, threshold)
        place = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
        one = op.Constant(value_ints=[1])
        zeros = op.Expand(op.Constant(value_ints=[0]), op.Shape(scores))
        ones = op.Expand(one, op.Shape(chosen, start=0, end=1))
        return op.Cast(op.ScatterND(zeros, place, ones), to=ir.DataType.BOOL)

    return {torch.ops.kat_mm_export.nms_mask.default: translate}
