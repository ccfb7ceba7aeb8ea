"""Submodules that are imported when they are first asked for."""

from importlib import import_module
from types import ModuleType


def submodule(package: str, name: str) -> ModuleType:
    """What `__getattr__` of a package gives for the name of one of its modules."""
    try:
        return import_module(f".{name}", package)
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{name}":
            raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
