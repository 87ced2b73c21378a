"""Operators for which a host waits on a GPU, as they are seen on a CPU."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Operators for whose outcome the host of a GPU waits."""

    def __init__(self):
        super().__init__()
        self.found = []
        self._copies = _Copies(self.found)

    def __enter__(self):
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._copies.__exit__(*error)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        indices = args[1] if name.startswith('index') and isinstance(args[1], list) else ()
        if name in ('_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'equal') or any(
            index is not None and index.dtype == torch.bool for index in indices
        ):
            self.found.append(name)
        return operator(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    """Numbers that are copied to where a tensor is."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.new_tensor:
            self.found.append('new_tensor')
        return function(*args, **(kwargs or {}))


class Indices(TorchDispatchMode):
    """Counts images indexed by a list, which is copied to the GPU: the host waits for it."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        # Not those of a table of sizes, which stays on the host.
        self.found += operator.overloadpacket is torch.ops.aten.index and args[0].dim() > 2
        return operator(*args, **(kwargs or {}))
