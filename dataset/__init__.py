"""The contract: what a grid is, what a cube looks like, and how one is filled, read and verified."""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Modules are imported on first use: the grid file needs neither Zarr nor xarray."""
    try:
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
