"""Batch normalisation over all processes, for which the host does not wait.

``torch.nn.SyncBatchNorm`` drops processes without data from what was gathered, by a mask, so that
the host stops for the GPU three times in each layer: the GPU is idle while the layers behind are
prepared. A segmentor gets at least one image in every process. Kernels, statistics and what is sent
are PyTorch's, whose sums of gradients are rounded on the way where half-precision maps are
contiguous, and not where they are channels last.
"""

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable


def forward(self: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """In place of the ``forward`` of a SyncBatchNorm.

    Args:
        x: (N, C, ...), the same C in all processes; N >= 1 in each.

    Returns:
        Of the shape and dtype of ``x``, normalised over the values of all processes.
    """
    group = self.process_group or distributed.group.WORLD
    if not (
        self.training
        and _on_gpu(x)
        and self.affine
        and self.track_running_stats
        and self.running_mean.dtype in (torch.float32, torch.float64)
        and self.momentum is not None
        and distributed.is_initialized()
        and distributed.get_world_size(group) > 1
        and not torch.compiler.is_compiling()
    ):
        return type(self).forward(self, x)
    self.num_batches_tracked.add_(1)
    return _Normalise.apply(
        x,
        self.weight,
        self.bias,
        self.running_mean,
        self.running_var,
        self.momentum,
        self.eps,
        group,
    )


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _dense(x: Tensor) -> Tensor:
    """In one of the two layouts that PyTorch's kernels read."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps, group):
        x = _dense(x)
        channels = x.size(1)
        mean, inverse_std = torch.batch_norm_stats(x, eps)
        here = torch.cat([mean, inverse_std, mean.new_full((1,), x.numel() // channels)])
        everywhere = here.new_empty(distributed.get_world_size(group), here.numel())
        distributed.all_gather_into_tensor(everywhere.view(-1), here, group)
        means, inverse_stds, counts = everywhere.split([channels, channels, 1], dim=1)
        counts = counts.reshape(-1)
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            x, means, inverse_stds, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse_std, counts.to(torch.int32))
        ctx.group = group
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, mean, inverse_std, counts = ctx.saved_tensors
        gradient = _dense(gradient)
        *sums, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse_std, weight, *ctx.needs_input_grad[:3]
        )
        of_x = None
        if ctx.needs_input_grad[0]:
            both = torch.cat(sums)
            distributed.all_reduce(both, group=ctx.group)
            of_x = torch.batch_norm_backward_elemt(
                gradient, x, mean, inverse_std, weight, *both.chunk(2), counts
            )
        return of_x, of_weight, of_bias, *[None] * 5
