"""mmseg's own segmentors, with the operators of ``kat_mm.ops`` in their heads.

A model is changed where it stands: methods are bound to its own modules, and nothing is replaced in
mmseg, so that another model of the process stays what it was. Parameters, their names and the state
dict are the same.

- ``loss_by_feat`` of a head resizes, classifies and compares in one pass; Mask2Former's head gets a
  class whose losses are those of all predictions at once (segmentation_queries).
- ``F.interpolate`` within the ``forward`` of neck and heads is ``resize``, by a mode of PyTorch's
  function dispatch that is entered there: it finds every call whatever name mmseg imported it by,
  in every head, and none outside. Backbones are left alone.
- ``forward`` of a SyncBatchNorm in neck and heads does not wait for the GPU (segmentation_norm).
- ``forward`` of mmseg's preprocessor does not wait for the GPU (segmentation_data).
- ``predict`` of the segmentor is the largest logit of the resampled map (segmentation_inference).

A copy of the model, by ``copy.deepcopy`` or pickle, is changed likewise.
"""

import functools
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kat_mm.ops import backend, resize, resized_cross_entropy

from . import segmentation_norm
from .segmentation_inference import predict, why_not_predict

_logger = logging.getLogger(__name__)
_EPS = torch.finfo(torch.float32).eps  # of mmseg's averages


def use_segmentation_kernels(model: nn.Module, keep_logits: bool = False) -> None:
    """Let a segmentor of mmseg train and predict by the operators of this package.

    Losses, gradients and predictions are the same but for rounding. What a part does in a way of
    its own is left to it, and the log says so. A second call changes nothing.

    Args:
        model: An ``EncoderDecoder`` of mmseg, without wrapper. Any other model stays as it is.
        keep_logits: Whether predictions hold ``seg_logits`` at the size of the image, as mmseg's
            do: they are then computed by mmseg. Default: False, ``pred_sem_seg`` alone.
    """
    from mmseg.models import EncoderDecoder, SegDataPreProcessor
    from mmseg.models.decode_heads import Mask2FormerHead

    from .segmentation_data import preprocess  # mmengine is for those who train

    if not isinstance(model, EncoderDecoder):
        _logger.info('%s is no EncoderDecoder: it computes as mmseg does', type(model).__name__)
        return
    if type(model.data_preprocessor) is SegDataPreProcessor:
        _bind(model.data_preprocessor, 'forward', preprocess)
    for name, module in _neck_and_heads(model).items():
        _bind(module, 'forward', _forward)
        for layer in module.modules():
            if getattr(type(layer), 'forward', None) is nn.SyncBatchNorm.forward:
                _bind(layer, 'forward', segmentation_norm.forward)
        if name == 'neck':
            continue
        if isinstance(module, Mask2FormerHead):
            from .segmentation_queries import use_mask_losses  # it needs mmdet

            reason = use_mask_losses(module)
        else:
            reason = _why_not_loss(module)
            if reason is None:
                _bind(module, 'loss_by_feat', _loss_by_feat)
        if reason is not None:
            _logger.info('The loss of %s is computed by mmseg: %s', name, reason)
    reason = 'its logits are kept' if keep_logits else why_not_predict(model)
    if reason is None:
        _bind(model, 'predict', predict)
    else:
        _logger.info('Predictions are computed by mmseg: %s', reason)


def _neck_and_heads(model: nn.Module) -> dict[str, nn.Module]:
    parts = {'neck': model.neck} if model.with_neck else {}
    parts['decode_head'] = model.decode_head
    if model.with_auxiliary_head:
        heads = model.auxiliary_head
        heads = heads if isinstance(heads, nn.ModuleList) else [heads]
        parts.update((f'auxiliary_head.{index}', head) for index, head in enumerate(heads))
    if isinstance(model.decode_head, nn.ModuleList):  # CascadeEncoderDecoder
        del parts['decode_head']
        heads = enumerate(model.decode_head)
        parts.update((f'decode_head.{index}', head) for index, head in heads)
    return parts


def _bind(module: nn.Module, name: str, function) -> None:
    present = vars(module).get(name)
    if present is None:
        # Not a bound method, which is pickled by its name in the class.
        setattr(module, name, functools.partial(function, module))
    elif getattr(present, 'func', None) is not function:
        _logger.info('%s has a %s of its own, which stays', type(module).__name__, name)


class BilinearByKernels(TorchFunctionMode):
    """Within it, bilinear ``F.interpolate`` of maps to a size is ``kat_mm.ops.resize``."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.interpolate:
            size = _bilinear_size(*args, **kwargs)
            if size is not None:
                x = args[0] if args else kwargs['input']
                return resize(x, size, bool(kwargs.get('align_corners')))
        return function(*args, **kwargs)


def _bilinear_size(
    input,
    size=None,
    scale_factor=None,
    mode='nearest',
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
) -> tuple[int, int] | None:
    """The size that maps are resized to; None for what ``resize`` does not do."""
    if mode != 'bilinear' or antialias or size is None or input.dim() != 4:
        return None
    return (size, size) if isinstance(size, int) else tuple(map(int, size))


def _forward(self: nn.Module, inputs, *args, **kwargs):
    """In place of the ``forward`` of a neck or head."""
    with BilinearByKernels():
        return type(self).forward(self, _channels_last(inputs), *args, **kwargs)


def _channels_last(inputs):
    """Maps as the convolutions of tensor cores and our operators read them best."""
    if type(inputs) in (list, tuple):  # not a named tuple, which a head has of its own
        return type(inputs)(map(_channels_last, inputs))
    if isinstance(inputs, Tensor) and inputs.dim() == 4 and backend.runs_kernels(inputs):
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def _why_not_loss(head: nn.Module) -> str | None:
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.losses import CrossEntropyLoss

    if getattr(type(head), 'loss_by_feat', None) is not BaseDecodeHead.loss_by_feat:
        return f'{type(head).__name__} has a loss_by_feat of its own'
    if head.sampler is not None:
        return f'{type(head.sampler).__name__} samples pixels by their full-size logits'
    if head.ignore_index is None:
        return 'its ignore_index is None'
    if head.out_channels < 2:
        return 'its single output channel has a binary loss'
    for loss in _losses(head):
        name = type(loss).__name__
        if type(loss) is not CrossEntropyLoss:
            return f'{name} needs full-size logits'
        if loss.use_sigmoid or loss.use_mask:
            return f'{name} is binary'
        if loss.reduction not in ('mean', 'sum'):
            return f'{name} has reduction={loss.reduction!r}'
    return None


def _losses(head: nn.Module) -> list[nn.Module]:
    several = isinstance(head.loss_decode, nn.ModuleList)
    return list(head.loss_decode) if several else [head.loss_decode]


def _loss_by_feat(self: nn.Module, seg_logits: Tensor, batch_data_samples: list) -> dict:
    """In place of ``BaseDecodeHead.loss_by_feat``, without a synchronisation."""
    labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
    losses = {}
    for loss in _losses(self):
        sums = resized_cross_entropy(
            seg_logits,
            labels,
            _class_weight(loss, seg_logits),
            self.ignore_index,
            self.align_corners,
        )
        value = loss.loss_weight * _reduce(loss, sums, labels.numel())
        losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
    # As mmseg.models.losses.accuracy, in per cent.
    share = (sums.correct + _EPS) / (sums.valid + _EPS)
    losses['acc_seg'] = 100 * share.detach().float().view(1)
    return losses


def _class_weight(loss: nn.Module, logits: Tensor) -> Tensor | None:
    if loss.class_weight is None:
        return None
    dtype = torch.promote_types(logits.dtype, torch.float32)
    # Without a wait for the device, which a copy from pageable memory is.
    weight = torch.tensor(loss.class_weight, dtype=dtype)
    if logits.is_cuda:
        weight = weight.pin_memory()
    return weight.to(logits.device, non_blocking=True)


def _reduce(loss: nn.Module, sums, pixels: int) -> Tensor:
    """The average that mmseg's CrossEntropyLoss takes."""
    if loss.reduction == 'sum':
        return sums.loss
    if loss.class_weight is not None:
        return sums.loss / (sums.weight + _EPS)
    return sums.loss / ((sums.valid if loss.avg_non_ignore else pixels) + _EPS)
