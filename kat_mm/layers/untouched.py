from torch import nn


def is_untouched(module: nn.Module, *kinds: type) -> bool:
    """Whether a module of one of these kinds may be computed without being called.

    Not where somebody listens to it, nor where it was replaced (adapters, quantisation, sharding)
    or parametrised, which makes it another class, nor where it was compiled by itself.
    """
    own = module.__dict__
    return type(module) in kinds and not (
        own['_forward_pre_hooks']
        or own['_forward_hooks']
        or own['_backward_pre_hooks']
        or own['_backward_hooks']
        or 'forward' in own  # wrapped by whoever moves parameters about
        or '_compiled_call_impl' in own
    )
