"""Parameters and floating-point operations of a model, with what KAT adds to a ViT."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from kat_mm.analysis.inputs import make_inputs
from kat_mm.layers import GroupRational

aten = torch.ops.aten
# The count of KAT's authors for GELU (KAT, table 1).
GELU_FLOPS = 14
KINDS = {
    'linear': ('mm', 'addmm', 'bmm', 'baddbmm'),
    'convolution': ('convolution',),
    'attention': (
        '_scaled_dot_product_flash_attention_for_cpu',
        '_scaled_dot_product_flash_attention',
        '_scaled_dot_product_efficient_attention',
        '_scaled_dot_product_cudnn_attention',
    ),
    'GELU': ('gelu',),
    'rational': (),  # no operator of PyTorch: counted by module
}
# Kinds of modules that compute more than is counted of them.
UNCOUNTED = ('KArAt', 'MultiScaleDeformableAttention')


class Complexity(NamedTuple):
    """What a model has and does for one image.

    Attributes:
        parameters: Name of a part, such as ``backbone``, to the number of its parameters; shared
            ones count in the first.
        flops: Name of a part to kind (of :data:`KINDS`) to floating-point operations, where a
            multiplication and an addition are two.
        uncounted: Kinds of modules, of :data:`UNCOUNTED`, of which more than products of matrices
            would have to be counted.
    """

    parameters: dict[str, int]
    flops: dict[str, dict[str, int]]
    uncounted: tuple[str, ...]

    def total(self) -> int:
        """All floating-point operations."""
        return sum(sum(kinds.values()) for kinds in self.flops.values())

    def of_kind(self, kind: str) -> int:
        """Floating-point operations of a kind."""
        return sum(kinds.get(kind, 0) for kinds in self.flops.values())


def count_complexity(model: nn.Module, size: tuple[int, int]) -> Complexity:
    """Count a model's parameters, and its operations for one image on the CPU.

    Counted are linear maps, convolutions, attention (``2 N^2 C`` for the scores and as much for the
    values, in whatever kernel), rational functions of degrees (m, n) with ``2 m + 2 n + 3`` and
    GELU with 14 for each element (KAT, table 1). Normalisation, softmax, additions and
    interpolation are not, as is usual. Heads of regions run on the regions that the model proposes.

    Args:
        model: A classifier, detector or segmenter of OpenMMLab; it is put into evaluation mode.
        size: Height and width of the image.
    """
    images, samples = make_inputs(model, 1, size)
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_flops,
            aten.gelu: _gelu_flops,
        },
    )
    rationals = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, name=name: rationals.update(
                {name: rationals.get(name, 0) + rational_flops(module, args[0])}
            )
        )
        for name, module in model.named_modules()
        if isinstance(module, GroupRational)
    ]
    try:
        with torch.no_grad(), counter:
            model.cpu().eval()(images, samples, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    flops = _by_part(counter.get_flop_counts(), type(model).__name__)
    for name, number in rationals.items():
        kinds = flops.setdefault(name.partition('.')[0], {})
        kinds['rational'] = kinds.get('rational', 0) + number
    kinds = {type(module).__name__ for module in model.modules()}
    uncounted = tuple(kind for kind in UNCOUNTED if kind in kinds)
    return Complexity(count_parameters(model), flops, uncounted)


def rational_flops(module: GroupRational, x: Tensor) -> int:
    """Operations of a rational function of degrees (m, n) on x: 2 m + 2 n + 3 for each element."""
    m, n = module.weight_numerator.shape[1] - 1, module.weight_denominator.shape[1]
    return x.numel() * (2 * m + 2 * n + 3)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Name of each part of a model to the number of its parameters."""
    seen, counts = set(), {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            part = name.partition('.')[0]
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def _by_part(by_module: dict[str, dict], root: str) -> dict[str, dict[str, int]]:
    """Sums over the children of the model.

    A head whose methods are called in place of itself does not appear, but its own children do.
    """
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    flops = {}
    for name, operators in by_module.items():
        parents = name.split('.')[1:-1]
        above = {'.'.join([root, *parents[:n]]) for n in range(1, len(parents) + 1)}
        if name in ('Global', root) or above & by_module.keys():
            continue
        kinds = flops.setdefault(name.split('.')[1], {})
        for operator, number in operators.items():
            kind = kind_of[str(operator).split('.')[1]]
            kinds[kind] = kinds.get(kind, 0) + number
    return {part: kinds for part, kinds in flops.items() if kinds}


def _sdpa_flops(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _gelu_flops(x, *_, out_shape=None, **__) -> int:
    return GELU_FLOPS * _size(x)


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
