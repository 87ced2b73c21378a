"""What goes into the activations of a model: histograms of pre-activations while it runs."""

import numpy as np
import torch
from torch import Tensor, nn

from kat_mm.layers import GRKAN, MLP, GroupRational

# Beyond what trained models reach; what lies outside is counted in the outermost bins.
LIMIT, BINS = 24.0, 960


class PreActivations:
    """Count the inputs of every activation of a model's feed-forwards, as long as it is open.

    It counts in the forward passes within ``with PreActivations(model) as counts:``. An activation
    that somebody listens to is not fused with its neighbours, so that its input can be seen.

    Attributes:
        counts: Name of the activation, such as ``backbone.blocks.0.mlp.act2``, to an int64 array
            (groups, BINS), where a group is one of the rational function, or all channels of a
            GELU.
        ranges: Name of the activation to its smallest and largest input.
    """

    edges = np.linspace(-LIMIT, LIMIT, BINS + 1)

    def __init__(self, model: nn.Module):
        self.counts: dict[str, np.ndarray] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self._model = model
        self._handles = []

    def __enter__(self) -> 'PreActivations':
        for name, module in self._model.named_modules():
            if isinstance(module, GRKAN):
                for act in ('act1', 'act2'):
                    self._listen(f'{name}.{act}', getattr(module, act))
            elif isinstance(module, MLP):
                self._listen(f'{name}.act', module.act)
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def _listen(self, name: str, act: nn.Module) -> None:
        groups = len(act.weight_denominator) if isinstance(act, GroupRational) else 1
        self._handles.append(
            act.register_forward_pre_hook(lambda _, args: self._add(name, args[0], groups))
        )

    @torch.no_grad()
    def _add(self, name: str, x: Tensor, groups: int) -> None:
        x = x.float().reshape(-1, groups, x.shape[-1] // groups)
        low, high = x.amin().item(), x.amax().item()
        before = self.ranges.get(name, (low, high))
        self.ranges[name] = min(low, before[0]), max(high, before[1])
        x = x.clamp(-LIMIT, LIMIT)
        counts = [torch.histc(x[:, g], BINS, -LIMIT, LIMIT) for g in range(groups)]
        counts = torch.stack(counts).cpu().numpy().astype(np.int64)
        self.counts[name] = self.counts.get(name, 0) + counts

    def centers(self) -> np.ndarray:
        """Middle of each bin, (BINS,)."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    def quantile(self, name: str, q: float) -> float:
        """Input below which the share ``q`` of all inputs of an activation lies."""
        share = np.cumsum(self.counts[name].sum(axis=0)) / self.counts[name].sum()
        return float(self.edges[1:][min(np.searchsorted(share, q), BINS - 1)])
