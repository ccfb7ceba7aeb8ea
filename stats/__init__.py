"""The answers: from a cube to measures, from measures to honest conclusions."""

from typing import Any

from ..lazy import submodule

_WHERE = {"answer": "answers", "Report": "report"}


def __getattr__(name: str) -> Any:
    """Modules are imported on first use: measures need no mixed models, and these no cube."""
    if name in _WHERE:
        return getattr(submodule(__name__, _WHERE[name]), name)
    return submodule(__name__, name)
