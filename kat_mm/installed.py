import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType


def is_installed(package: str) -> bool:
    """Whether a package is here that kat_mm can do without; a broken one raises on import."""
    return find_spec(package) is not None


def after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    """Do something with a module once it is imported: now, or whenever that will be.

    Args:
        name: The module, with its packages.
        action: Gets it.
    """
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Import(name, action))


class _Import(MetaPathFinder):
    """Finds one module as the others would, and has an action behind its execution."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]):
        self.name, self.action = name, action

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                self.action(module)

            spec.loader.exec_module = execute_and_act
        return spec
