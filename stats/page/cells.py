"""Tables as the page shows them: three significant digits, decimal points below each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..gate import Status

__all__ = ["Cell", "Table", "chance", "exact", "interval", "mark", "number", "table", "times"]

Kind = Literal["text", "number", "interval", "mark"]
LARGE, SMALL = 1e6, 1e-4  # beyond these a number is written with its exponent


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place; `pad` is the invisible rest that puts decimal points below each other."""

    text: str
    kind: Kind = "text"
    pad: str = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, a head and rows of cells; `more` says what was left out."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: str = ""

    @property
    def kinds(self) -> list[Kind]:
        """How each column is aligned: as the first cell that says something."""
        return [
            next((cell.kind for cell in column if cell.text), "text")
            for column in zip(*self.rows, strict=True)
        ]


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], most: int = 200) -> Table | None:
    """A table of plain values and cells, at most so many rows; without any row there is none."""
    made = [[_cell(value) for value in row] for row in rows[:most]]
    if not made:
        return None
    columns = [_aligned(column) for column in zip(*made, strict=True)]
    left = len(rows) - len(made)
    more = f"{left:,} more rows are in report.json and the folder tables" if left else ""
    return Table(caption, tuple(head), tuple(zip(*columns, strict=True)), more)


def number(value: float | None) -> Cell:
    """Three significant digits, zeros and all."""
    return Cell(_digits(value), "number")


def times(log: float | None) -> Cell:
    """A ratio from its log."""
    return number(None if log is None else math.exp(log))


def interval(ends: Sequence[float | None] | None, logs: bool = False) -> Cell:
    """[low, high]; of logs as ratios."""
    if ends is None or any(end is None or math.isnan(end) for end in ends):
        return Cell("", "interval")
    low, high = (math.exp(end) if logs else end for end in ends if end is not None)
    return Cell(f"[{_digits(low)}, {_digits(high)}]", "interval")


def chance(p: float | None) -> Cell:
    """A p as one writes it."""
    if p is None or math.isnan(p):
        return Cell("", "number")
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", "number")


def exact(value: float | None) -> Cell:
    """A count, or degrees of freedom."""
    whole = value is not None and float(value).is_integer()
    return Cell(f"{value:,.0f}" if whole else _digits(value), "number")


def mark(status: Status | None, word: str) -> Cell:
    """A word with the colour of a status; without one, with none."""
    return Cell(word, "mark", status=status)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("")
    if isinstance(value, bool | str):
        return Cell(str(value))
    return exact(value) if isinstance(value, int) else number(float(value))


def _digits(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    x = float(value)
    if x == 0 or math.isinf(x):
        return f"{x:.0f}"
    if not SMALL <= abs(x) < LARGE:
        return f"{x:.2e}"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:#.3g}".rstrip(".")


def _aligned(column: Sequence[Cell]) -> list[Cell]:
    """The same cells, each with what its fraction lacks of the longest."""
    fractions = [cell.text.partition(".")[2] if cell.kind == "number" else "" for cell in column]
    longest = max(map(len, fractions))
    return [
        replace(cell, pad=_rest(cell.text, longest - len(fraction))) if cell.kind == "number" else cell
        for cell, fraction in zip(column, fractions, strict=True)
    ]


def _rest(text: str, lacking: int) -> str:
    if not text or not lacking:
        return ""
    return "0" * lacking if "." in text else "." + "0" * lacking
