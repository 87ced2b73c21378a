"""Activations between two linear maps, with the first one's bias and, where there is one, the gate.

On a GPU one pass forward and one backward, which gives the gradient of the bias too. Elsewhere
PyTorch's own functions compute it, and their own gradients: there is no eager file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import backend
from .common.checks import check_device, check_floating
from .common.registration import Operator, is_exported

kernels = backend.import_kernels(__name__)

ACTIVATIONS = {
    'gelu': F.gelu,
    'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'),
    'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x),
    'silu': F.silu,
}
"""Functions by name; 'quick_gelu' is that of OpenAI's CLIP."""


def activation(x: Tensor, kind: str, bias: Tensor | None = None, gated: bool = False) -> Tensor:
    """``act(x + bias)``, or ``act(gate) * value`` of the two halves of ``x + bias`` (Shazeer 2020).

    Args:
        x: Shape (..., C).
        kind: A name of :data:`ACTIVATIONS`.
        bias: Shape (C,), that of the linear map which x comes from. Default: none.
        gated: Whether the first C / 2 channels are a gate of the others. Default: False.

    Returns:
        (..., C), or (..., C / 2) where gated, in x's dtype. The kernels compute in float32 and
        round once.

    Raises:
        ValueError: ``kind`` is unknown, a shape does not fit, or the devices differ.
        TypeError: x is not a floating-point tensor.
    """
    if kind not in ACTIVATIONS:
        raise ValueError(
            f'activation: kind={kind!r} is unknown; choose one of {tuple(ACTIVATIONS)}'
        )
    check_floating('activation', 'x', x)
    if bias is not None:
        check_device('activation', 'bias', bias, 'x', x)
        if bias.shape != x.shape[-1:]:
            raise ValueError(
                f'activation: bias is {tuple(bias.shape)}; '
                f'for x of {tuple(x.shape)} it must be {tuple(x.shape[-1:])}'
            )
    if gated and x.shape[-1] % 2:
        raise ValueError(f'activation: {x.shape[-1]} channels are no gate and value of one width')
    if backend.runs_kernels(x) and x.dtype != torch.float64 and x.numel() and not is_exported():
        return _operator(x, bias, kind, gated)
    act = ACTIVATIONS[kind]
    x = x if bias is None else x + bias.to(x.dtype)
    if not gated:
        return act(x)
    gate, value = x.chunk(2, dim=-1)
    return act(gate) * value


def _setup_context(ctx, inputs, output):
    x, bias, ctx.kind, ctx.gated = inputs
    ctx.save_for_backward(x, bias)


def _formula(ctx, backward, grad):
    return *backward(grad, *ctx.saved_tensors, ctx.kind, ctx.gated), None, None


if kernels:
    _operator = Operator(
        'activation',
        '(Tensor x, Tensor? bias, str kind, bool gated) -> Tensor',
        forward=kernels.forward,
        fake=kernels.empty_output,
        backward_signature='(Tensor grad, Tensor x, Tensor? bias, str kind, bool gated)'
        ' -> (Tensor, Tensor)',
        backward=kernels.backward,
        backward_fake=kernels.empty_gradients,
        setup_context=_setup_context,
        formula=_formula,
    )
