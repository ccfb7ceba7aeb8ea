"""The experiment: a model, its forest of tokens, what is captured of them, and the workers that run grids."""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Modules are imported on first use: selection and bookkeeping need no MLX."""
    try:
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
