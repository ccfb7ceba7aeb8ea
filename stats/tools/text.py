"""Text that fits: cut by what a terminal shows, so that wide and odd characters keep columns straight."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.cells import cell_len, set_cell_size

from ...words import shown

__all__ = ["bar", "cut", "heatmap", "label", "legend", "middle", "table"]

SHADES = ".:-=+*#%@"
HIDDEN = "x"
NAME = 14  # cells of a token beside its row
TALL = 8  # rows of a heading
GAP = "  "
LONG = 40  # cells of a column of a table
LEAST = 30  # columns of a terminal below which nothing can be told

Matrix = npt.NDArray[np.floating]


def label(text: str, width: int | None = None, encoding: str = "utf-8") -> str:
    """A token for a screen, on one line; with a width: exactly so many cells, cut with two dots."""
    spelled = shown(text.replace("\n", "\\n"), encoding)
    if width is None:
        return spelled
    return set_cell_size(spelled, width) if cell_len(spelled) <= width else cut(spelled, width)


def cut(text: str, width: int) -> str:
    """A line of exactly so many cells at most, two dots where it was cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 2, 0)) + "." * min(width, 2)


def bar(value: float, most: float, width: int = 20) -> str:
    """A value as a row of #, of so many for the most."""
    if not (np.isfinite(value) and most > 0):
        return ""
    return "#" * max(round(width * value / most), 1 if value > 0 else 0)


def table(frame: pd.DataFrame, width: int = 100, encoding: str = "utf-8") -> list[str]:
    """A table as lines: numbers to three digits on the right, text cut to a few cells on the left."""
    columns = [_column(name, frame[name].tolist(), encoding) for name in frame.columns]
    ends = np.cumsum([cell_len(cells[0]) + len(GAP) for cells in columns]) - len(GAP)
    fit = max(int((ends <= width).sum()), 1)
    lines = [cut(GAP.join(cells).rstrip(), width) for cells in zip(*columns[:fit], strict=True)]
    left_out = ", ".join(map(str, frame.columns[fit:]))
    return [*lines, cut(f"no room for {left_out}", width)] if left_out else lines


def _column(name: str, values: list[Any], encoding: str) -> list[str]:
    texts = [_entry(value, encoding) for value in values]
    wide = min(max(map(cell_len, [name, *texts])), LONG)
    if any(isinstance(value, str) for value in values):
        return [label(text, wide) for text in (name, *texts)]
    return [cut(text, wide).rjust(wide) for text in (name, *texts)]


def _entry(value: Any, encoding: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return label(value, encoding=encoding)
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def middle(count: int, room: int) -> tuple[list[int], tuple[int, int] | None]:
    """Which of so many things are shown where there is room for fewer, and which are not: the middle."""
    if count <= room:
        return list(range(count)), None
    first = max(1, room // 3)
    last = max(room - first, 0)
    return [*range(first), *range(count - last, count)], (first, count - last - 1)


def heatmap(
    matrix: Matrix,
    sources: Sequence[str],
    targets: Sequence[str],
    width: int = 100,
    height: int = 60,
    encoding: str = "utf-8",
) -> list[str]:
    """The lines of a heatmap of (source, target): a row a source, two cells a target, a legend below."""
    name = min(NAME, max([cell_len(label(each, encoding=encoding)) for each in sources] or [0]))
    columns, gone = middle(len(targets), max((max(width, LEAST) - name - 3) // 2, 2))
    rows, below = middle(len(sources), height)
    most = float(np.nanmax(matrix)) if np.isfinite(matrix).any() else float("nan")
    names = [label(sources[row], name, encoding) for row in rows]
    lines = [" " * name + "  " + line for line in _headings([targets[i] for i in columns], gone, encoding)]
    for text, row in zip(names, rows, strict=True):
        if below and row == below[1] + 1:
            lines.append(f"... {_left_out('row', below)}")
        lines.append(f"{text} |" + _spread([_shade(matrix[row, i], most) + " " for i in columns], gone))
    if gone:
        lines.append(f"~ {_left_out('column', gone)}")
    return [line.rstrip() for line in [*lines, *legend(most)]]


def legend(most: float) -> list[str]:
    """What the shades stand for: the least weight that has each."""
    if not np.isfinite(most):
        return ["no weights here"]
    least = [f"{shade} {most * (i / len(SHADES)) ** 2:.2g}" for i, shade in enumerate(SHADES)]
    return [f"from {', '.join(least)}", f"{HIDDEN} hidden (exactly 0); blank: no such pair"]


def _shade(value: float, most: float) -> str:
    if np.isnan(value):
        return " "
    if value == 0 or not most:
        return HIDDEN
    # By the square root: one sink takes most of a row, and what is left is what one looks for.
    return SHADES[min(int(math.sqrt(abs(value) / most) * len(SHADES)), len(SHADES) - 1)]


def _headings(texts: list[str], gone: tuple[int, int] | None, encoding: str) -> list[str]:
    """Tokens written downwards, two cells a column, so that a wide character takes no other's room."""
    spelled = [label(text.strip() or text, encoding=encoding) for text in texts]
    spelled = [text if len(text) <= TALL else text[: TALL - 1] + "." for text in spelled]
    tall = max(map(len, spelled), default=0)
    lines = []
    for i in range(tall):
        characters = [text.rjust(tall)[i] for text in spelled]
        lines.append(_spread([set_cell_size(each, 2) for each in characters], gone).rstrip())
    return lines


def _spread(cells: list[str], gone: tuple[int, int] | None) -> str:
    if gone is None:
        return "".join(cells)
    return "".join([*cells[: gone[0]], "~", *cells[gone[0] :]])


def _left_out(what: str, gone: tuple[int, int]) -> str:
    count = gone[1] - gone[0] + 1
    return f"{count} {what}{'s' * (count != 1)} not shown: {gone[0]} to {gone[1]}"
