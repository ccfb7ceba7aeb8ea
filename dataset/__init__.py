"""The contract: what a grid is, what a cube looks like, and how one is filled, read and verified."""

from importlib import import_module
from types import ModuleType

_MODULES = (
    "digest",
    "encoding",
    "grid",
    "lease",
    "presets",
    "reading",
    "schema",
    "simulated",
    "store",
    "verify",
)


def __getattr__(name: str) -> ModuleType:
    """Modules are imported on first use: the grid file needs neither Zarr nor xarray."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
