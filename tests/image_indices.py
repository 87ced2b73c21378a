"""Images that are indexed by a list."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Indices(TorchDispatchMode):
    """Counts images indexed by a list, which is copied to the GPU: the host waits for it."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        # Not those of a table of sizes, which stays on the host.
        self.found += operator.overloadpacket is torch.ops.aten.index and args[0].dim() > 2
        return operator(*args, **(kwargs or {}))
