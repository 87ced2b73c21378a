"""Heads of mmdet as FastDetectionHook makes them."""

import copy

from torch import nn

from kat_mm.dense.detection import use_fast_heads


def fast_copy(head):
    """A copy that was in a detector, and whether it was changed."""
    model = nn.Module()
    model.head = copy.deepcopy(head)
    changed = use_fast_heads(model)
    assert changed in ([], ['head'])
    return model.head, bool(changed)
