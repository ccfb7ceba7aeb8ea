"""The answers: from a cube to measures, from measures to honest conclusions."""

from importlib import import_module
from typing import Any

_WHERE = {"answer": "answers"}


def __getattr__(name: str) -> Any:
    """Modules are imported on first use: measures need no mixed models, and these no cube."""
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    try:
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
