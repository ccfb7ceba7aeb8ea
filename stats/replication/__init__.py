"""The five experiments of the seeds over any cube, and what became of each claim that was made of them."""

from typing import Any

from ...lazy import submodule


def __getattr__(name: str) -> Any:
    """Modules are imported on first use."""
    return submodule(__name__, name)
