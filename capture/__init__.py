"""The experiment: a model, its forest of tokens, what is captured of them, and the workers that run grids."""

from types import ModuleType

from ..lazy import submodule


def __getattr__(name: str) -> ModuleType:
    """Modules are imported on first use: selection and bookkeeping need no MLX."""
    return submodule(__name__, name)
