"""The grids that come with tempocube; a preset's name stands wherever a grid file does."""

from pathlib import Path

from ..errors import BadInput
from .textfile import did_you_mean

_FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """All presets, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def path(name: str) -> Path:
    """The grid file of a preset."""
    if name not in names():
        raise BadInput(f"{name}: no such preset{did_you_mean(name, names())}; presets: {', '.join(names())}")
    return _FOLDER / f"{name}.yaml"


def describe(name: str) -> str:
    """One line on what a preset is for: the first line of its file."""
    return path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
