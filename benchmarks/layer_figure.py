"""The layer benchmark as a picture: what an experiment takes in each arm, and how many times as fast."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

Row = dict[str, Any]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe and Ito's palette


def draw(lines: Sequence[Row], names: Mapping[str, str], title: str, file: Path) -> None:
    """Write the picture of one grid's lines; the ending says whether as SVG, PNG or PDF."""
    rows = [line for line in lines if line["kind"] == "arm"]
    pairs = [line for line in lines if line["kind"] == "ratio"]
    figure = Figure(figsize=(10, 1.4 + 0.42 * max(len(rows), len(pairs))), layout="constrained")
    left, right = figure.subplots(1, 2) if pairs else (figure.subplots(), None)
    _seconds(left, rows, lines, names)
    if right is not None:
        _ratios(right, pairs, names)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def _seconds(axes: Axes, rows: Sequence[Row], lines: Sequence[Row], names: Mapping[str, str]) -> None:
    """Every round's milliseconds an experiment, from the first experiment to the last one's end."""
    for place, row in enumerate(rows):
        mine = [each for each in lines if each["kind"] == "sample" and each["arm"] == row["arm"]]
        each = [1e3 * sample["work_s"] / (sample["experiments"] * sample["sampled"]) for sample in mine]
        axes.plot(each, [place] * len(each), "o", color=BLUE, markersize=5, alpha=0.6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [names[row["arm"]] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ms an experiment, start-up apart (a point a round)")
    _plain(axes)


def _ratios(axes: Axes, pairs: Sequence[Row], names: Mapping[str, str]) -> None:
    """Medians with ranges, and where the target begins."""
    for place, pair in enumerate(pairs):
        for clock, colour, mark, off in (("work_s", BLUE, "o", -0.12), ("all_s", ORANGE, "s", 0.12)):
            found = pair[clock]
            axes.plot([found["least"], found["most"]], [place + off] * 2, color=colour, linewidth=2)
            axes.plot(found["median"], place + off, mark, color=colour, markersize=5)
        if pair["target"]:
            axes.plot([pair["target"][0]] * 2, [place - 0.35, place + 0.35], color=GREY, linestyle="--")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(
        range(len(pairs)), [f"{names[pair['arm']]}\nover {names[pair['over']]}" for pair in pairs]
    )
    axes.invert_yaxis()
    axes.set_xlabel(
        "times as fast, median and range: circles start-up apart,\nsquares all; dashes: the target"
    )
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8)
    axes.spines[["top", "right"]].set_visible(False)
