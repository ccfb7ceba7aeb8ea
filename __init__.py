"""tempocube: grids of TEMPO experiments, one labelled cube, honest statistics.

Everything is imported on first use (PEP 562), so `import tempocube` costs next to nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_WHERE = {
    "Cell": "dataset.grid",
    "Grid": "dataset.grid",
    "open_cube": "dataset.reading",
    "report": "stats.report",
    "run": "capture.run",
    "BadInput": "errors",
    "CubeError": "errors",
    "LeaseError": "errors",
    "TempoError": "errors",
}
_FOLDERS = ("capture", "dataset", "stats")

__all__ = [*_WHERE, *_FOLDERS, "__version__"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and remember it."""
    if name in _WHERE:
        value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    elif name in _FOLDERS:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
