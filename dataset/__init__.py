"""The contract: what a grid is, what a cube looks like, and how one is filled, read and verified."""

from types import ModuleType

from ..lazy import submodule


def __getattr__(name: str) -> ModuleType:
    """Modules are imported on first use: the grid file needs neither Zarr nor xarray."""
    return submodule(__name__, name)
