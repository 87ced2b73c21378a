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
    DropPath,
    GroupRational,
    KArAt,
    SoftmaxAttention,
    merge_windows,
    partition_windows,
)
from kat_mm.ops import (
    FeedForwardParameters,
    add_branch,
    add_layer_norm,
    backend,
    end_branch,
    feed_forward,
    linear,
    qkv_linear,
)

from .block import Block

# Kinds whose steps `_attend` knows.
_ATTENTIONS = (SoftmaxAttention, KArAt)
_PLAIN_TENSORS = (Tensor, nn.Parameter)


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
        if _is_plain(block, FusedBlock):
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


def _is_plain(module: nn.Module, *kinds: type) -> bool:
    """Whether a module of one of these kinds may be computed without being called.

    Not where somebody listens to it, nor where it was replaced (adapters, quantisation, sharding)
    or parametrised, which makes it another class, nor where it was compiled by itself.
    """
    return type(module) in kinds and not (
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or 'forward' in vars(module)  # wrapped by whoever moves parameters about
        or '_compiled_call_impl' in vars(module)
    )


def _holds(*parameters: Tensor | None) -> bool:
    """Whether all are there, as ordinary tensors: kernels misread quantised or distributed ones."""
    return all([type(parameter) in _PLAIN_TENSORS for parameter in parameters])


def _is_plain_norm(module: nn.Module) -> bool:
    return _is_plain(module, nn.LayerNorm) and _holds(module.weight, module.bias)


def _is_plain_linear(module: nn.Module, bias: bool = False) -> bool:
    """Whether it may be computed without being called; with ``bias`` only if it has one."""
    return _is_plain(module, nn.Linear) and (
        _holds(module.weight, module.bias)
        if bias or module.bias is not None
        else _holds(module.weight)
    )


def _does_nothing(dropout: nn.Module) -> bool:
    return _is_plain(dropout, nn.Dropout) and not (dropout.training and dropout.p)


def _run(block: Block, stream: _Stream, grid: tuple[int, int], attn_mask: Tensor | None) -> _Stream:
    """The two lines of a block."""
    x, y = _add_and_normalise(stream, block.norm1)
    branch = _attend(block.attn, y, grid, attn_mask)
    stream = _end_branch(_Stream(x, *branch), block.ls1, block.drop_path1)
    return _end_branch(_feed_forward(stream, block.norm2, block.mlp), block.ls2, block.drop_path2)


def _add_and_normalise(stream: _Stream, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The whole stream, and its normalisation."""
    if not _is_plain_norm(norm):
        x = stream.whole()
        return x, norm(x)
    return add_layer_norm(
        stream.x,
        norm.weight,
        norm.bias,
        norm.eps,
        stream.branch,
        stream.scale,
        branch_bias=stream.bias,
    )


def _end_branch(stream: _Stream, layer_scale: nn.Module, drop_path: nn.Module) -> _Stream:
    """The stream with its branch scaled, which nothing scaled so far."""
    scaled = not _is_plain(layer_scale, nn.Identity)
    if _is_plain(drop_path, DropPath) and not scaled:
        return stream._replace(scale=drop_path.draw(stream.branch))
    branch = layer_scale(end_branch(stream.x, stream.branch, stream.bias))
    return _Stream(stream.x, drop_path(branch))


def _attend(
    attn: nn.Module, x: Tensor, grid: tuple[int, int], attn_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The branch of attention, and the bias of its last linear map if that is still to be added."""
    if not _is_plain(attn, *_ATTENTIONS):
        return attn(x, grid, attn_mask), None
    x = partition_windows(x, grid, attn.window_size)
    qkv, proj = attn.qkv, attn.proj
    if _is_plain_linear(qkv):
        q, k, v = qkv_linear(x, qkv.weight, qkv.bias, attn.num_heads)
    else:
        q, k, v = attn.project(x)
    x = attn.attend(q, k, v, grid, attn_mask).transpose(1, 2)
    x = merge_windows(x, grid, attn.window_size).flatten(2)
    if _is_plain_linear(proj) and _does_nothing(attn.proj_drop):
        return linear(x, proj.weight, None), proj.bias
    return attn.proj_drop(proj(x)), None


def _feed_forward(stream: _Stream, norm: nn.Module, mlp: nn.Module) -> _Stream:
    """The whole stream, and the branch of the feed-forward."""
    parameters = _grkan_parameters(norm, mlp)
    if parameters is None:
        x, y = _add_and_normalise(stream, norm)
        return _Stream(x, mlp(y))
    x, y = feed_forward(stream.x, stream.branch, stream.scale, norm.eps, parameters, stream.bias)
    return _Stream(x, y, mlp.fc2.bias)


def _grkan_parameters(norm: nn.Module, mlp: nn.Module) -> FeedForwardParameters | None:
    """Those of a norm and a GR-KAN behind it, or None where they are not computed as one."""
    if not (_is_plain_norm(norm) and _is_plain(mlp, GRKAN)):
        return None
    # Looked up once: a module takes longer to find its parts than to launch a kernel on them.
    act1, fc1, act2, fc2 = mlp.act1, mlp.fc1, mlp.act2, mlp.fc2
    if not (
        _is_plain(act1, GroupRational)
        and _does_nothing(mlp.drop1)
        and _is_plain_linear(fc1, bias=True)
        and _is_plain(act2, GroupRational)
        and _does_nothing(mlp.drop2)
        and _is_plain_linear(fc2)
    ):
        return None
    coefficients = (
        act1.weight_numerator,
        act1.weight_denominator,
        act2.weight_numerator,
        act2.weight_denominator,
    )
    if not _holds(*coefficients):
        return None
    return FeedForwardParameters(
        norm.weight,
        norm.bias,
        *coefficients[:2],
        fc1.weight,
        fc1.bias,
        *coefficients[2:],
        fc2.weight,
    )
