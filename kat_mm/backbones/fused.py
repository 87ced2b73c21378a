"""Blocks in fewer passes over memory: what ``Block`` computes, by operators that fuse its parts.

The one place that asks "fused or plain". Parts of a block that nobody touched are not called: their
parameters are taken and given to the operators of ``kat_mm.ops``. A part that somebody listens to,
replaced, wrapped or parametrised is called, on whole tensors, and so is a block; the other parts
stay fused. Between blocks that are not called the last addition is carried on, for the next
normalisation to do it in one pass. Drop paths are those of the plain blocks, drawn in the same
order.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from kat_mm.layers import (
    GRKAN,
    MLP,
    Activation,
    DropPath,
    GatedGRKAN,
    GroupRational,
    KArAt,
    LayerScale,
    RotaryEmbedding,
    SoftmaxAttention,
    SwiGLU,
    window_partition,
    window_unpartition,
)
from kat_mm.layers.untouched import is_untouched
from kat_mm.ops import (
    FeedForwardParameters,
    activation,
    add_branch,
    add_layer_norm,
    backend,
    end_branch,
    feed_forward,
    linear,
    qkv_linear,
)

from .block import Block

# Kinds whose steps `_attend` and `_end_feed_forward` know.
_ATTENTIONS = (SoftmaxAttention, KArAt)
_FEED_FORWARDS = (MLP, SwiGLU, GatedGRKAN)
_TENSORS = (Tensor, nn.Parameter)


class FusedBlock(Block):
    """A :class:`Block` that computes the same in fewer passes where there are kernels for it."""

    def forward(self, x: Tensor, grid: tuple[int, int], attn_mask: Tensor | None = None) -> Tensor:
        """As of :class:`Block`."""
        if not _can_fuse(x):
            return super().forward(x, grid, attn_mask)
        return _run(self, _Stream(x), grid, attn_mask).whole()


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Tensor,
    grid: tuple[int, int],
    attn_mask: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """One block after the other, by the arguments of :class:`Block`.

    Args:
        recompute: Keep of each block its input alone, and compute the rest again in backward.
    """
    call = functools.partial(checkpoint, use_reentrant=False) if recompute else _call
    if not _can_fuse(x):
        for block in blocks:
            x = call(block, x, grid, attn_mask)
        return x
    stream = _Stream(x)
    for block in blocks:
        if is_untouched(block, FusedBlock):
            stream = call(_run, block, stream, grid, attn_mask)
        else:
            stream = _Stream(call(block, stream.whole(), grid, attn_mask))
    return stream.whole()


def _call(function: Callable, *args):
    return function(*args)


class _Stream(NamedTuple):
    """The residual stream, its last addition still to be done by the next normalisation."""

    x: Tensor
    """(B, N, C)"""
    branch: Tensor | None = None
    """To be added, of the same shape."""
    bias: Tensor | None = None
    """Added to the branch first, (C,): that of the linear map with which the branch ends."""
    scale: Tensor | None = None
    """Factor of each sample's branch, (B,): stochastic depth."""

    def whole(self) -> Tensor:
        """The stream with its branch added."""
        return add_branch(self.x, self.branch, self.scale, self.bias)


def _can_fuse(x: Tensor) -> bool:
    # Other types than tensors trace the modules (torch.fx) or have operators of their own.
    return type(x) is Tensor and backend.runs_kernels(x) and not _has_any_global_hook()


def _take(module: nn.Module, kind: type, first: str, second: str) -> tuple[Tensor, Tensor] | None:
    """Two parameters of a module of a kind, or None where it is to be called.

    That is also where one is missing, or no ordinary tensor: quantised and distributed ones are not
    what their memory says.
    """
    if not is_untouched(module, kind):
        return None
    taken = getattr(module, first), getattr(module, second)
    plain = type(taken[0]) in _TENSORS and type(taken[1]) in _TENSORS
    # Of all kinds a norm alone may be over more than the channels.
    return taken if plain and (kind is not nn.LayerNorm or taken[0].dim() == 1) else None


def _take_linear(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias, if it has one, of a linear map, or None where it is to be called."""
    if not is_untouched(module, nn.Linear):
        return None
    weight, bias = module.weight, module.bias
    plain = type(weight) in _TENSORS and (bias is None or type(bias) in _TENSORS)
    return (weight, bias) if plain else None


def _does_nothing(dropout: nn.Module) -> bool:
    return is_untouched(dropout, nn.Dropout) and not (dropout.training and dropout.p)


def _run(block: Block, stream: _Stream, grid: tuple[int, int], attn_mask: Tensor | None) -> _Stream:
    """The two lines of a block."""
    parts = block._modules  # a module takes long to find its parts by name
    x, y = _add_and_normalise(stream, parts['norm1'])
    branch, bias, scaled = _attend(parts['attn'], parts['ls1'], y, grid, attn_mask)
    stream = _end_branch(_Stream(x, branch, bias), parts['ls1'], scaled, parts['drop_path1'])
    stream, scaled = _feed_forward(stream, parts['norm2'], parts['mlp'], parts['ls2'])
    return _end_branch(stream, parts['ls2'], scaled, parts['drop_path2'])


def _add_and_normalise(stream: _Stream, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The whole stream, and its normalisation."""
    parameters = _take(norm, nn.LayerNorm, 'weight', 'bias')
    if parameters is None:
        x = stream.whole()
        return x, norm(x)
    x, branch, bias, scale = stream
    return add_layer_norm(x, *parameters, norm.eps, branch, scale, branch_bias=bias)


def _normalise(x: Tensor, norm: nn.Module) -> Tensor:
    return _add_and_normalise(_Stream(x), norm)[1]


def _take_gamma(layer_scale: nn.Module) -> Tensor | None:
    gamma = layer_scale.gamma if is_untouched(layer_scale, LayerScale) else None
    return gamma if type(gamma) in _TENSORS else None


def _scale_linear(
    layer_scale: nn.Module, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, bool]:
    """A linear map with LayerScale multiplied in, and whether that was done.

    A pass over the weight in the place of one over all tokens.
    """
    gamma = _take_gamma(layer_scale)
    if gamma is None:
        return weight, bias, False
    return gamma[:, None] * weight, None if bias is None else gamma * bias, True


def _end_branch(
    stream: _Stream, layer_scale: nn.Module, scaled: bool, drop_path: nn.Module
) -> _Stream:
    """The stream with its branch scaled, by LayerScale too unless that is done."""
    done = scaled or is_untouched(layer_scale, nn.Identity)
    if done and is_untouched(drop_path, DropPath):
        scale = drop_path.draw(stream.branch)
        return stream if scale is None else stream._replace(scale=scale)
    branch = end_branch(stream.x, stream.branch, stream.bias)
    branch = branch if scaled else layer_scale(branch)
    return _Stream(stream.x, drop_path(branch))


def _attend(
    attn: nn.Module,
    layer_scale: nn.Module,
    x: Tensor,
    grid: tuple[int, int],
    attn_mask: Tensor | None,
) -> tuple[Tensor, Tensor | None, bool]:
    """The branch of attention, the bias of its last linear map if that is still to be added.

    And whether both are scaled by LayerScale.
    """
    if not is_untouched(attn, *_ATTENTIONS):
        return attn(x, grid, attn_mask), None, False
    parts, window = attn._modules, attn.window_size
    x = window_partition(x, grid, window)
    qkv, proj = _take_linear(parts['qkv']), _take_linear(parts['proj'])
    attend, rotation = attn.attend, None
    if qkv is None or 'project' in vars(attn):
        q, k, v = attn.project(x)
    else:
        if _turns_at_once(attn):
            rotation = attn.rope.angles(x, x.shape[1], grid, window)
            attend = attn.weigh
        q, k, v = qkv_linear(x, qkv[0], attn.qkv_bias, attn.num_heads, rotation)
    x = attend(q, k, v, grid, attn_mask).transpose(1, 2)
    x = _normalise(window_unpartition(x, grid, window).flatten(2), parts['norm'])
    if proj is None or not _does_nothing(parts['proj_drop']):
        return parts['proj_drop'](parts['proj'](x)), None, False
    weight, bias, scaled = _scale_linear(layer_scale, *proj)
    return linear(x, weight, None), bias, scaled


def _turns_at_once(attn: nn.Module) -> bool:
    """Whether queries and keys are turned as they come from the linear map."""
    parts = attn._modules
    return (
        type(attn) is SoftmaxAttention
        and attn.rope is not None
        and 'attend' not in vars(attn)
        and 'weigh' not in vars(attn)
        and is_untouched(attn.rope, RotaryEmbedding)
        and is_untouched(parts['q_norm'], nn.Identity)
        and is_untouched(parts['k_norm'], nn.Identity)
    )


def _feed_forward(
    stream: _Stream, norm: nn.Module, mlp: nn.Module, layer_scale: nn.Module
) -> tuple[_Stream, bool]:
    """The whole stream with the branch of the feed-forward, and whether LayerScale is done."""
    taken = _take_grkan(norm, mlp)
    if taken is None:
        x, y = _add_and_normalise(stream, norm)
        branch, last_bias, scaled = _plain_feed_forward(mlp, layer_scale, y)
        return _Stream(x, branch, last_bias), scaled
    parameters, last_bias = taken
    weight, last_bias, scaled = _scale_linear(layer_scale, parameters.weight2, last_bias)
    parameters = parameters._replace(weight2=weight)
    x, branch, bias, scale = stream
    stream = _Stream(*feed_forward(x, branch, scale, norm.eps, parameters, bias), last_bias)
    return stream, scaled


def _plain_feed_forward(
    mlp: nn.Module, layer_scale: nn.Module, x: Tensor
) -> tuple[Tensor, Tensor | None, bool]:
    """As ``_attend``, of a feed-forward that is not one with the normalisation before it."""
    if not is_untouched(mlp, *_FEED_FORWARDS):
        return mlp(x), None, False
    parts = mlp._modules
    fc2 = _take_linear(parts['fc2'])
    if fc2 is None or type(mlp) is not GatedGRKAN and not _does_nothing(parts['drop2']):
        return mlp(x), None, False
    weight, bias, scaled = _scale_linear(layer_scale, *fc2)
    return linear(_inner(mlp, x), weight, None), bias, scaled


def _inner(mlp: nn.Module, x: Tensor) -> Tensor:
    """What the last linear map of a feed-forward gets."""
    parts = mlp._modules
    fc1 = _take_linear(parts['fc1'])
    taken = type(mlp) is not GatedGRKAN and is_untouched(parts['act'], Activation)
    if fc1 is None or not taken or 'inner' in vars(mlp):
        return mlp.inner(x)
    (weight, bias), gated = fc1, type(mlp) is SwiGLU
    x = activation(linear(x, weight, None), parts['act'].kind, bias, gated)
    return _normalise(parts['drop1'](x), parts['norm'])


def _take_grkan(
    norm: nn.Module, mlp: nn.Module
) -> tuple[FeedForwardParameters, Tensor | None] | None:
    """Parameters of a norm and a GR-KAN behind it, and fc2's bias; None if not computed as one."""
    if not is_untouched(mlp, GRKAN):
        return None
    parts, coefficients = mlp._modules, ('weight_numerator', 'weight_denominator')
    fc2 = _take_linear(parts['fc2'])
    pairs = (
        _take(norm, nn.LayerNorm, 'weight', 'bias'),
        _take(parts['act1'], GroupRational, *coefficients),
        _take(parts['fc1'], nn.Linear, 'weight', 'bias'),
        _take(parts['act2'], GroupRational, *coefficients),
    )
    untouched = fc2 is not None and None not in pairs
    if not (untouched and _does_nothing(parts['drop1']) and _does_nothing(parts['drop2'])):
        return None
    (norm_pair, act1, fc1, act2), (weight2, bias2) = pairs, fc2
    return FeedForwardParameters(*norm_pair, *act1, *fc1, *act2, weight2), bias2
