"""Which parts of a model run faster, as OpenMMLab's models name them."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn


def parts_of(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Parts of a model and their names, one by one where a name stands for a list of modules.

    Names that a model lacks are left out.
    """
    for name in names:
        try:
            part = model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(part, nn.ModuleList):  # heads of a cascade, or several auxiliary ones
            yield from ((f'{name}.{index}', module) for index, module in enumerate(part))
        else:
            yield name, part


def processes() -> int:
    """The number of processes that train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_initialized() else 1
