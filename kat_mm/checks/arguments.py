"""Keys of a config that no class takes."""

import difflib
import inspect

from mmengine import registry as registries
from mmengine.registry import Registry

from kat_mm.checks.names import correct
from kat_mm.errors import UserError

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
}
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_config_arguments(cfg: dict) -> None:
    """Refuse misspelt keys anywhere in a config; see :func:`check_arguments`."""
    for key in _SECTIONS.keys() & cfg.keys():
        check_arguments(cfg[key], key, _SECTIONS[key])
    for loader in _LOADERS:
        for key in ('dataset', 'sampler'):
            part = (cfg.get(loader) or {}).get(key)
            check_arguments(part, f'{loader}.{key}', _SECTIONS[key])


def check_arguments(cfg, where: str, names: tuple[str, ...] = _SECTIONS['model']) -> None:
    """Refuse keys that a class does not take, anywhere below ``cfg``.

    Of a class of this project any such key is refused; of a library's, one that is an argument
    misspelt: libraries take some out of a config before they build from it.

    Args:
        cfg: A part of a config.
        where: Where it stands.
        names: Names of the registries that its types are in.

    Raises:
        UserError: There is such a key.
    """
    if isinstance(cfg, list | tuple):
        for index, item in enumerate(cfg):
            check_arguments(item, f'{where}[{index}]', names)
    if not isinstance(cfg, dict):
        return
    cls = _find(cfg.get('type'), names)
    known, is_all = _arguments(cls)
    for key, value in cfg.items():
        check_arguments(value, f'{where}.{key}', _SECTIONS.get(key, names))
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


def _find(given, names: tuple[str, ...]) -> type | None:
    """The class of a type; of those outside of OpenMMLab and this project, None."""
    cls = given
    if isinstance(given, str):
        found = (_get(getattr(registries, name), given) for name in names)
        cls = next((one for one in found if one is not None), None)
    is_ours = inspect.isclass(cls) and cls.__module__.partition('.')[0] in _PACKAGES
    return cls if is_ours else None


_PACKAGES = ('kat_mm', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain')


def _get(registry: Registry, name: str) -> type | None:
    with registry.switch_scope_and_registry(None) as current:  # of the config's scope
        return current.get(name)


def _arguments(cls: type | None) -> tuple[list[str], bool]:
    """Names of what a class takes, and whether these are all, as far as signatures tell."""
    known = {}
    for base in cls.__mro__ if cls else ():
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        known.update((p.name, None) for p in named if p.name != 'self')
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return list(known), True
    return list(known), False
