"""Predictions of mmseg's segmentors without logits at the size of the image.

What mmseg does to the logits of a head is linear, in the rows and in the columns apart: resize to
the window, average where windows overlap, cut the padding off, flip, resize to the original image.
So it is one matrix for rows and one for columns, and the class of a pixel is the argmax of a few
logits' sums. Windows of an image go through the model together.
"""

import functools

import torch
from torch import Tensor, nn

from kat_mm.ops import Taps, bilinear_rows, resampled_argmax

_OWN_METHODS = ('predict', 'inference', 'slide_inference', 'whole_inference', 'encode_decode')
# Windows that go through the model at once; an image of ADE20K has 1 to 4.
_MAX_WINDOWS = 16


def why_not_predict(model: nn.Module) -> str | None:
    """Why the predictions of an ``EncoderDecoder`` are left to mmseg; None where they are not."""
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    for name in (*_OWN_METHODS, 'postprocess_result', 'extract_feat'):
        if getattr(type(model), name) is not getattr(EncoderDecoder, name):
            return f'{type(model).__name__} has a method {name} of its own'
    head = model.decode_head
    for name in ('predict', 'predict_by_feat'):
        if getattr(type(head), name, None) is not getattr(BaseDecodeHead, name):
            return f'{type(head).__name__} has a method {name} of its own'
    if model.out_channels < 2:
        return 'a single output channel is compared with a threshold'
    return None


def predict(self: nn.Module, inputs: Tensor, data_samples: list | None = None) -> list:
    """In place of ``EncoderDecoder.predict``: samples with ``pred_sem_seg``, without logits."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = tuple(inputs.shape[2:])
    if self.test_cfg.get('mode', 'whole') == 'slide':
        crop, stride = (tuple(self.test_cfg[key]) for key in ('crop_size', 'stride'))
        starts = tuple(map(_starts, size, crop, stride))
        crop = tuple(map(min, crop, size))
        logits = _logits_of_windows(self, inputs, starts, crop)
        resized = size
    else:
        starts, logits = ((0,), (0,)), self.decode_head.forward(self.extract_feat(inputs))
        crop = resized = _whole_size(size, data_samples)
    only_prediction = data_samples is None
    samples = data_samples or [SegDataSample() for _ in inputs]
    for index, sample in enumerate(samples):
        meta = {} if only_prediction else sample.metainfo
        left, right, top, bottom = _padding(meta)
        target = resized if only_prediction else meta['ori_shape'][:2]
        flip = _flip(meta)
        rows, columns = (
            _taps(
                logits.shape[2 + axis],
                starts[axis],
                crop[axis],
                resized[axis],
                cut,
                flip == direction,
                None if only_prediction else target[axis],
                self.align_corners,
                logits.device,
            )
            for axis, cut, direction in (
                (0, (top, bottom), 'vertical'),
                (1, (left, right), 'horizontal'),
            )
        )
        labels = resampled_argmax(logits[index : index + 1], rows, columns)
        sample.set_data({'pred_sem_seg': PixelData(data=labels)})
    return samples


def _starts(size: int, crop: int, stride: int) -> tuple[int, ...]:
    """Where the windows of an axis begin, as in ``EncoderDecoder.slide_inference``."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return tuple(max(min(i * stride + crop, size) - crop, 0) for i in range(count))


def _logits_of_windows(
    model: nn.Module, inputs: Tensor, starts: tuple, crop: tuple[int, int]
) -> Tensor:
    """Logits of all windows side by side, (B, K, h * windows down, w * windows across)."""
    windows = torch.cat(
        [inputs[:, :, y : y + crop[0], x : x + crop[1]] for y in starts[0] for x in starts[1]]
    )
    logits = torch.cat(
        [
            model.decode_head.forward(model.extract_feat(some))
            for some in windows.split(_MAX_WINDOWS)
        ]
    )
    down, across = map(len, starts)
    logits = logits.unflatten(0, (down, across, len(inputs)))  # (down, across, B, K, h, w)
    return logits.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)


def _whole_size(size: tuple[int, int], data_samples: list | None) -> tuple[int, int]:
    """What ``BaseDecodeHead.predict_by_feat`` resizes to."""
    if data_samples is None:
        return size
    meta = data_samples[0].metainfo
    # A torch.Size is the shape of a window or of a tensor that was not padded.
    if 'pad_shape' in meta and not isinstance(meta['img_shape'], torch.Size):
        return tuple(meta['pad_shape'][:2])
    return tuple(meta['img_shape'][:2])


def _padding(meta: dict) -> tuple[int, int, int, int]:
    """Pixels to the left, to the right, above and below."""
    return tuple(meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0))))


def _flip(meta: dict) -> str | None:
    if not meta.get('flip'):
        return None
    direction = meta.get('flip_direction')
    if direction not in ('horizontal', 'vertical'):
        raise ValueError(f"flip_direction={direction!r}: 'horizontal' and 'vertical' are known")
    return direction


@functools.lru_cache(256)  # validation sets have images of many sizes
def _taps(
    side: int,
    starts: tuple[int, ...],
    crop: int,
    size: int,
    cut: tuple[int, int],
    flipped: bool,
    target: int | None,
    align_corners: bool,
    device: torch.device,
) -> Taps:
    """From windows of ``side // len(starts)`` logits to an axis of the predictions.

    Windows of ``crop`` pixels begin at ``starts`` in an image of ``size`` pixels, of which the
    first and the last are ``cut`` off; the rest is resized to ``target`` pixels.
    """
    window = side // len(starts)
    resized = bilinear_rows(torch.eye(window, dtype=torch.float64), crop, align_corners)
    matrix = torch.zeros(size, side, dtype=torch.float64)
    count = torch.zeros(size, 1, dtype=torch.float64)
    for index, start in enumerate(starts):
        matrix[start : start + crop, index * window : (index + 1) * window] += resized
        count[start : start + crop] += 1
    matrix = (matrix / count)[cut[0] : size - cut[1]]
    if flipped:
        matrix = matrix.flip(0)
    if target is not None:
        matrix = bilinear_rows(matrix, target, align_corners)
    return Taps(*(table.to(device) for table in Taps.of(matrix)))
