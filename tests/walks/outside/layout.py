"""Checkpoints of a project that calls blocks layers, and norms by what they stand before."""

from kat_mm.checkpoints.layouts import Layout, State, register_layout, rename

_RULES = {
    r'layers\.(\d+)\.before_attention\.(.*)': r'blocks.\1.norm1.\2',
    r'layers\.(\d+)\.before_mlp\.(.*)': r'blocks.\1.norm2.\2',
    r'layers\.(\d+)\.(.*)': r'blocks.\1.\2',
}


def to_official(state: State) -> State:
    return rename(state, _RULES)


register_layout('outside', Layout('KAT of outside', ('layers.0.before_mlp.weight',), to_official))
