from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Whether a package is here that kat_mm can do without; a broken one raises on import."""
    return find_spec(package) is not None
