"""Parts of blocks: found by name, built by their contract, and known by nothing else."""

import difflib
import inspect

from torch import nn

from kat_mm import layers
from kat_mm.installed import is_installed
from kat_mm.layers import BlockSpec

# What `forward` is called with, as BlockSpec describes it.
_FORWARD = {'attn_cfg': ('x', 'grid', 'attn_mask'), 'ffn_cfg': ('x',)}


def build_part(argument: str, cfg: dict, spec: BlockSpec) -> nn.Module:
    """Build an attention or a feed-forward by its contract; see :class:`BlockSpec`.

    Args:
        argument: 'attn_cfg' or 'ffn_cfg', for messages.
        cfg: ``type``, a class or its name, and the options of that class. A name is looked up in
            mmengine's root registry, then in that of the default scope; without mmengine, among
            the layers of this project.
        spec: Where the part stands.

    Raises:
        ValueError: The type is missing, unknown, or no part of this place; or the class refuses the
            spec.
        TypeError: The class has no such option.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        example = {'attn_cfg': 'SoftmaxAttention', 'ffn_cfg': 'GRKAN'}[argument]
        raise ValueError(
            f'KAT: {argument}={cfg!r} must be a dict with a type, for example '
            f'dict(type={example!r})'
        )
    options = dict(cfg)
    kind = options.pop('type')
    options.pop('_scope_', None)  # which mmengine's configs add
    cls = _find(kind) if isinstance(kind, str) else kind
    if cls is None:
        near = difflib.get_close_matches(str(kind), _own(), n=1)
        hint = f'did you mean {near[0]!r}? ' if near else ''
        raise ValueError(
            f'KAT: {argument} has type={kind!r}, which is not registered; {hint}'
            f'Parts of this project are {", ".join(_own())}; one of your own is registered with '
            'mmengine.registry.MODELS and imported by custom_imports'
        )
    if not hasattr(cls, 'from_spec'):
        raise ValueError(
            f'KAT: {argument} has type={kind!r}, which is no part of a block: it has no from_spec; '
            'kat_mm.layers.BlockSpec says what a part must have'
        )
    part = cls.from_spec(spec, **options)
    _check_part(argument, kind, part)
    return part


def _check_part(argument: str, kind: str | type, part: nn.Module) -> None:
    """Refuse what a block cannot call: else it shows at the first image, as a missing argument."""
    if not isinstance(part, nn.Module):
        raise ValueError(
            f'KAT: {argument} has type={kind!r}, whose from_spec returns {part!r}; '
            'it must return a torch.nn.Module'
        )
    signature = inspect.signature(part.forward)
    try:
        signature.bind(*_FORWARD[argument])
    except TypeError:
        what = {'attn_cfg': 'an attention', 'ffn_cfg': 'a feed-forward'}[argument]
        names = ', '.join(signature.parameters)
        raise ValueError(
            f'KAT: {argument} has type={kind!r}, whose forward takes ({names}); that of {what} '
            f'takes ({", ".join(_FORWARD[argument])}), see kat_mm.layers.BlockSpec'
        ) from None


def _own() -> list[str]:
    return [name for name in layers.__all__ if hasattr(getattr(layers, name), 'from_spec')]


def _find(name: str) -> type | None:
    if not is_installed('mmengine'):
        return getattr(layers, name) if name in _own() else None
    from mmengine.registry import MODELS

    # The root first: another library may have a class of the same name in its own.
    found = MODELS.get(name)
    if found is None:
        with MODELS.switch_scope_and_registry(None) as registry:
            found = registry.get(name)
    return found
