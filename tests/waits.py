"""Operators for which a host waits on a GPU, as they are seen on a CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Operators for whose outcome the host of a GPU waits."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        indices = args[1] if name.startswith('index') and isinstance(args[1], list) else ()
        if name in ('_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'equal') or any(
            index is not None and index.dtype == torch.bool for index in indices
        ):
            self.found.append(name)
        return operator(*args, **(kwargs or {}))


class Indices(TorchDispatchMode):
    """Counts images indexed by a list, which is copied to the GPU: the host waits for it."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        # Not those of a table of sizes, which stays on the host.
        self.found += operator.overloadpacket is torch.ops.aten.index and args[0].dim() > 2
        return operator(*args, **(kwargs or {}))
