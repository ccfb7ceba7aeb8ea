"""The tools of seeds/002 over a cube: thin functions of views, which `tempo-stats show` and `ask` print."""

from typing import Any

from ...lazy import submodule

_WHERE = {"AttentionAnalyzer": "analyzer", "AttentionVisualizer": "visualizer", "ask": "questions"}


def __getattr__(name: str) -> Any:
    """Modules are imported on first use."""
    if name in _WHERE:
        return getattr(submodule(__name__, _WHERE[name]), name)
    return submodule(__name__, name)
