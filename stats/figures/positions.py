"""The picture of positions: where each token lies in memory, and which position RoPE gave it."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..study import PAIR
from ..view import View, view
from .basis import Basis
from .picture import Picture
from .style import COLOURS, INK, bare, label, legend

__all__ = ["positions"]

NAMED = 48  # slots: beyond it, labels of tokens would lie on each other
KINDS = {"prompt": COLOURS["single"], "single": COLOURS["isolated"], "parallel": COLOURS["visible"]}


def positions(of: Basis) -> Picture | None:
    """Slot against logical position of the experiment with the most parallel sets."""
    frame, cube = of.report.part.frame, of.report.part.cube
    if cube is None:
        return None
    most = frame[frame["parallel_sets"] == frame["parallel_sets"].max()]
    best = most.loc[min(most.index, key=lambda row: _rank(str(most.at[row, "mode"])))]
    seen = view(cube, best["prompt"], best["seed"], best["mode"], **of.report.at)
    table = _table(seen)
    wide = int((seen.width >= 2).sum())
    last = int(table["logical"].iloc[-1])
    return Picture(
        "positions",
        "positions",
        "Which tokens share a position",
        f"{len(table)} tokens lie on {last + 1} positions: the tokens of each of the {wide} parallel sets "
        "share one, seen as a level stretch; on the dashed line every token would have its own. "
        f"n = 1 experiment ({label(seen.name, 80)}){_others(len(most))}.",
        f"Slots against logical positions of one experiment: {wide} parallel sets share positions.",
        table,
        draw_positions,
        4.2,
    )


def _rank(mode: str) -> int:
    """Of experiments with as many parallel sets visible goes first, then isolated."""
    return PAIR[::-1].index(mode) if mode in PAIR else len(PAIR)


def _others(ties: int) -> str:
    if ties == 1:
        return ", the one with the most parallel sets"
    return f", one of {ties} with as many parallel sets; none has more"


def _table(seen: View) -> pd.DataFrame:
    """One row a slot."""
    step = np.asarray(seen.slot_step)
    wide = np.isin(step, seen.wide_steps)
    return pd.DataFrame(
        {
            "slot": np.arange(seen.slots),
            "logical": seen.logical,
            "step": step,
            "kind": np.where(step < 0, "prompt", np.where(wide, "parallel", "single")),
            "probability": seen.probability,
            "token": seen.token,
            "label": seen.labels,
            "experiment": seen.name,
        }
    )


def draw_positions(figure: Figure, table: pd.DataFrame) -> None:
    """Points by kind, the line that no sharing would give, tokens' texts where there is room."""
    axes = figure.add_subplot()
    slots, few = table["slot"], len(table) <= NAMED
    size = 18 if few else 5
    axes.plot(slots, slots, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="no sharing")
    for _, rows in table[table["kind"] == "parallel"].groupby("step"):
        axes.plot(rows["slot"], rows["logical"], color=KINDS["parallel"], linewidth=4, alpha=0.3)
    for kind, colour in KINDS.items():
        rows = table[table["kind"] == kind]
        axes.scatter(rows["slot"], rows["logical"], s=size, color=colour, linewidth=0, zorder=3, label=kind)
    if few:
        for _, row in table.iterrows():
            place: dict[str, Any] = {"xytext": (0, -6), "textcoords": "offset points", "rotation": 60}
            axes.annotate(
                label(row["label"], 12),
                (row["slot"], row["logical"]),
                ha="right",
                va="top",
                fontsize=7,
                **place,
            )
    below = 0.24 * max(6, table["logical"].max()) if few else 0.02 * slots.max() + 1
    axes.set_ylim(-below, max(slots.max(), 1) + 0.5)
    axes.set_xlim(-2.5, slots.max() + 0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set(xlabel="slot (order in which tokens were fed)", ylabel="logical position (RoPE)")
    bare(axes, "y")
    legend(axes)
