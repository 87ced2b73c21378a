"""Keys of a config that no class takes."""

import difflib
import inspect
from collections.abc import Iterator

from mmengine import registry as registries
from mmengine.registry import Registry

from kat_mm.checks.names import correct
from kat_mm.errors import UserError, some

# Where the types below a key of a config are registered.
_SECTIONS = {
    'model': ('MODELS', 'TASK_UTILS'),
    'dataset': ('DATASETS',),
    'pipeline': ('TRANSFORMS',),
    'sampler': ('DATA_SAMPLERS',),
    'val_evaluator': ('METRICS',),
    'test_evaluator': ('METRICS',),
    'default_hooks': ('HOOKS',),
    'custom_hooks': ('HOOKS',),
    'param_scheduler': ('PARAM_SCHEDULERS',),
    'visualizer': ('VISUALIZERS',),
    'vis_backends': ('VISBACKENDS',),
    'optim_wrapper': ('OPTIM_WRAPPERS', 'OPTIMIZERS'),
}
# Parts within parts, and those that are built from the same registry as what holds them.
_INNER = {key: _SECTIONS[key] for key in ('pipeline', 'vis_backends')}
_BUILT = {*_INNER, 'dataset', 'datasets', 'optimizer'}
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_config_arguments(cfg: dict) -> None:
    """Refuse misspelt keys and types anywhere in a config; see :func:`check_arguments`."""
    for key in _SECTIONS.keys() & cfg.keys():
        check_arguments(cfg[key], key, _SECTIONS[key])
    for loader in _LOADERS:
        for key in ('dataset', 'sampler'):
            part = (cfg.get(loader) or {}).get(key)
            check_arguments(part, f'{loader}.{key}', _SECTIONS[key])


def check_arguments(
    cfg, where: str, names: tuple[str, ...] = _SECTIONS['model'], is_built: bool = True
) -> None:
    """Refuse types that are not registered, and keys that a class does not take, below ``cfg``.

    A model's types are left to its building, which comes before the run too. Of a class of this
    project any such key is refused; of a library's, one that is an argument misspelt: libraries
    take some out of a config before they build from it.

    Args:
        cfg: A part of a config.
        where: Where it stands.
        names: Names of the registries that its types are in.
        is_built: Whether it is built from these; other parts may be for whom they are given to.
            Default: True.

    Raises:
        UserError: There is such a type or key.
    """
    if isinstance(cfg, list | tuple):
        for index, item in enumerate(cfg):
            check_arguments(item, f'{where}[{index}]', names, is_built)
    if not isinstance(cfg, dict):
        return
    cls = _find(cfg.get('type'), names)
    if cls is None and 'type' in cfg and is_built and names is not _SECTIONS['model']:
        registered = [known for name in names for known in _names(getattr(registries, name))]
        near = next(iter(difflib.get_close_matches(str(cfg['type']), registered, 1)), None)
        hint = f'; did you mean {near}? ' if near else '. '
        raise UserError(
            f'{where}.type={cfg["type"]!r} is not registered{hint}custom_imports of the config '
            'names the modules that register others'
        )
    known, is_all = _arguments(cls)
    unknown = [key for key in cfg if key not in (*known, 'type') and not key.startswith('_')]
    if is_all and cls.__module__.startswith('kat_mm.') and len(unknown) > 1:
        raise UserError(
            f'{where} has {some(unknown)}, which are no arguments of {cls.__name__}. What a base '
            f'config has left there is dropped by _delete_=True. It takes {", ".join(known)}'
        )
    for key, value in cfg.items():
        inner = is_built and ('type' not in cfg or key in _BUILT)
        check_arguments(value, f'{where}.{key}', _INNER.get(key, names), inner)
        if known and key != 'type' and not key.startswith('_') and key not in known:
            near = correct(key, [k for k in known if k not in cfg])
            if is_all and cls.__module__.startswith('kat_mm.'):
                near = near or next(iter(difflib.get_close_matches(key, known, 1)), None)
            elif near is None:  # taken out of the config before the class is built
                continue
            hint = f'did you mean {near}? ' if near else ''
            raise UserError(
                f'{where}.{key} is not an argument of {cls.__name__}; {hint}'
                f'It takes {", ".join(known)}'
            )


def _find(given, names: tuple[str, ...]):
    """What a type is registered as, in the first of some registries; None where it is not."""
    if not isinstance(given, str):
        return given
    found = (_current(getattr(registries, name)).get(given) for name in names)
    return next((one for one in found if one is not None), None)


def _names(registry: Registry) -> Iterator[str]:
    """What is registered in the config's scope, and in mmengine's own."""
    current = _current(registry)
    while current is not None:
        yield from current.module_dict
        current = current.parent


def _current(registry: Registry) -> Registry:
    """The registry of the config's scope."""
    with registry.switch_scope_and_registry(None) as current:
        return current


# Whose arguments are those of their classes; torch's are given to them by others.
_PACKAGES = ('kat_mm', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain')


def _arguments(cls) -> tuple[list[str], bool]:
    """Names of what a class takes, and whether these are all, as far as signatures tell."""
    if not inspect.isclass(cls) or cls.__module__.partition('.')[0] not in _PACKAGES:
        return [], False
    known = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        known.update((p.name, None) for p in named if p.name != 'self')
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return list(known), True
    return list(known), False
