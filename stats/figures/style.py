"""How pictures look: colours that work on white and on black, text that any font can draw, axes of ratios."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ...words import shown

__all__ = [
    *("ACCENT", "COLOURS", "FADED", "INK", "OWN_BLUE", "RC", "WIDTH", "bare", "colour_of", "label"),
    *("legend", "limits", "ratio_axis", "reference", "steps_axis", "ticks", "values_axis"),
]

Array = npt.NDArray[np.floating[Any]]

WIDTH = 8.5  # inch: 960 px wide on the page, where 9 pt are 14 px
INK = "#0a0b0c"  # nothing else has this colour, so that a page can put its own in its place
ACCENT = "#0072B2"
FADED = 0.25
OWN_BLUE = f"var(--figure-blue, {ACCENT.lower()})"  # a dark page may want a lighter one
COLOURS = {
    "isolated": ACCENT,
    "visible": "#D55E00",
    "causal": "#CC79A7",
    "single": "#009E73",
}
OTHERS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
FONT = "DejaVu Sans"  # comes with matplotlib, so that a layout does not depend on the machine
UNKNOWN = "\N{WHITE SQUARE}"

RC: dict[Any, Any] = {  # matplotlib types its keys as a list of all of them
    "font.family": [FONT],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.usetex": False,
    "path.simplify": False,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,  # pictures have an engine of their own, until they are laid out
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}

MANTISSAS = (
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)
ENOUGH, MOST_TICKS = 4, 10
MANY = 1000.0
NARROW = 1.8  # within it, ticks at even steps are as good


def colour_of(mode: str) -> str:
    """The colour of a mode, the same in every picture."""
    return COLOURS.get(mode, OTHERS[0])


@cache
def _drawable() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


def label(text: str, most: int = 28) -> str:
    """Foreign text as a label: one line, no control characters, nothing that the font lacks, not too long."""
    spelled = shown(" ".join(text[: 4 * most].split()))
    drawable = "".join(c if ord(c) in _drawable() else UNKNOWN for c in spelled)
    return drawable if len(drawable) <= most else drawable[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def ticks(low: float, high: float) -> list[float]:
    """Round ratios between two, evenly told on a log scale."""
    if high < NARROW * low:
        return [
            float(x)
            for x in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            if low <= x <= high
        ] or [low, high]
    powers = [10.0**k for k in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)]
    decades = [power for power in powers if low <= power <= high]
    if len(decades) >= ENOUGH:
        return decades[:: math.ceil(len(decades) / MOST_TICKS)]
    found: list[float] = []
    for mantissas in MANTISSAS:
        found = [m * power for power in powers for m in mantissas if low <= m * power <= high]
        if len(found) >= ENOUGH:
            break
    return found[:: math.ceil(len(found) / MOST_TICKS)]


def limits(values: Sequence[Any], null: float | None = None, *, log: bool = False) -> tuple[float, float]:
    """Ends of an axis that shows all finite values and that of no effect, with some air."""
    given = np.concatenate([np.ravel(np.asarray(each, dtype=np.float64)) for each in values])
    finite = given[np.isfinite(given) & ((given > 0) | (not log))]
    finite = np.append(finite, [] if null is None else [null])
    if not finite.size:
        return (0.5, 2.0) if log else (-1.0, 1.0)
    low, high = (float(math.log(x) if log else x) for x in (finite.min(), finite.max()))
    air = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    ends = low - air, high + air
    return (math.exp(ends[0]), math.exp(ends[1])) if log else ends


def ratio_axis(axes: Axes, which: str, ends: tuple[float, float], title: str) -> None:
    """A log axis with plain numbers at round ratios."""
    axis: Axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(*ends)
    axis.set_major_locator(FixedLocator(ticks(*ends)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= MANY else f"{x:.4g}"))
    axis.set_label_text(title)


def values_axis(
    axes: Axes, which: str, values: Sequence[Any], title: str, scale: str, null: float | None
) -> None:
    """The axis of what is measured, on its scale, with a line where there is no effect."""
    log = scale == "log"
    ends = limits(values, null, log=log)
    if log:
        ratio_axis(axes, which, ends, title)
    else:
        getattr(axes, f"set_{which}lim")(*ends)
        getattr(axes, f"set_{which}label")(title)
    if null is not None:
        reference(axes, which, null)


def reference(axes: Axes, which: str, at: float) -> None:
    """The line of no effect."""
    draw = axes.axvline if which == "x" else axes.axhline
    draw(at, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def bare(axes: Axes, which: str = "x") -> None:
    """Faint lines across, to read values by."""
    axes.grid(axis="x" if which == "x" else "y", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)


def steps_axis(axes: Axes, last: float, title: str = "step (set number, from 0)") -> None:
    """An axis of whole numbers."""
    axes.set_xlim(-0.4, last + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel(title)


def legend(axes: Axes, **options: Any) -> None:
    """Names of what is drawn above the axes, where they hide nothing."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        axes.legend(handles, names, **(place | {"ncols": min(len(names), 5)} | options))
