"""Pictures over steps: the response, and the width of sets beside the threshold."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ..questions import number, ratio
from .basis import Basis, over_prompts
from .picture import Picture
from .style import ACCENT, INK, bare, colour_of, legend, limits, steps_axis, values_axis

__all__ = ["course", "lines", "two_kinds", "width"]

ALL_MODES = "all modes"
LONG = 40  # steps: beyond, lines are thinner and have no points
MANY = 30  # prompts: beyond, their lines are fainter and have no points


def course(of: Basis) -> Picture | None:
    """Q12: the response over steps, a thin line for each prompt, the mean with its interval."""
    found, steps = of.answer("over_steps"), of.report.part.steps
    if found is None or found.estimate is None or steps is None:
        return None
    study = of.study
    rows = steps[steps["mode"].isin(study.modes) & steps["prompt"].isin(study.prompts)]
    rows = rows[np.isfinite(rows["downweighting"])]
    if rows.empty:
        return None
    by_mode = rows.groupby(["prompt", "step", "mode"], sort=False)["downweighting"].mean()
    own = by_mode.groupby(["prompt", "step"]).mean().reset_index()
    table = two_kinds(own, ["step"], "downweighting", exp=True)
    table = table.assign(unit="attention of parallel over single tokens (ratio)", scale="log")
    verdict = "is shown" if found.p is not None and found.p < 0.05 else "was not shown"
    return Picture(
        "course",
        "over_steps",
        "Over steps",
        f"The response changes by {ratio(np.exp(found.estimate))} a step; a change {verdict} (n = {found.n} "
        "prompts). Thin lines are prompts, means of their seeds and modes; the thick one is their mean with "
        "its 95 % interval, where at least four prompts have the step. A step needs a parallel and a single "
        "set before it.",
        f"Response of each prompt over steps, with the mean of {found.n} prompts.",
        table,
        draw_course,
    )


def draw_course(figure: Figure, table: pd.DataFrame) -> None:
    """Lines of prompts and their mean, the line of no effect."""
    axes = figure.add_subplot()
    prompts = table[table["kind"] == "prompt"]
    lines(axes, table, ACCENT, "mean of prompts, 95 % CI")
    values = [prompts["value"]]
    values_axis(axes, "y", values, str(table["unit"].iloc[0]), str(table["scale"].iloc[0]), 1.0)
    steps_axis(axes, float(table["step"].max()))
    bare(axes, "y")
    legend(axes)


def width(of: Basis) -> Picture | None:
    """How wide sets are at each step, and the threshold that made them so."""
    steps, part = of.report.part.steps, of.report.part
    if steps is None or steps.empty:
        return None
    made = []
    for panel, column, unit in (
        ("width", "width", "width (tokens in a set)"),
        ("threshold", "threshold_used", "threshold (probability)"),
    ):
        own = steps.groupby(["mode", "prompt", "step"], sort=False)[column].mean().reset_index()
        own = own[np.isfinite(own[column])]
        if not own.empty:
            own = _without_copies(own, column)
            made.append(two_kinds(own, ["mode", "step"], column).assign(panel=panel, unit=unit))
    table = pd.concat(made, ignore_index=True)
    n, experiments = steps["prompt"].nunique(), len(part.frame)
    capped, wide = float(steps["capped"].mean()), float((steps["width"] >= 2).mean())
    return Picture(
        "width",
        "design",
        "Width and threshold over steps",
        f"{100 * wide:.0f} % of the sets are parallel, {number(steps['width'].mean())} tokens on average; "
        f"{100 * capped:.0f} % had more tokens above the threshold than the cap let in (n = {n} prompts, "
        f"{experiments} experiments). Thin lines are prompts, thick ones their mean with its 95 % "
        "interval, where at least four prompts have the step.",
        "Mean width of sets over steps by mode, and the threshold.",
        table,
        draw_width,
        3.4,
    )


def _without_copies(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Modes as one where all have the same value in every prompt and at every step, as under replay."""
    modes = rows["mode"].nunique()
    at = rows.groupby(["prompt", "step"])[column].agg(["nunique", "size"])
    same = modes > 1 and bool(((at["nunique"] == 1) & (at["size"] == modes)).all())
    return rows.assign(mode=ALL_MODES).drop_duplicates(["prompt", "step"]) if same else rows


def draw_width(figure: Figure, table: pd.DataFrame) -> None:
    """Width on the left, the threshold on the right."""
    panels = list(dict.fromkeys(table["panel"]))
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        rows = table[table["panel"] == panel]
        for mode in dict.fromkeys(rows["mode"]):
            colour = INK if mode == ALL_MODES else colour_of(mode)
            lines(axes, rows[rows["mode"] == mode], colour, str(mode), points=False)
        floor = 1.0 if panel == "width" else 0.0
        axes.set_ylim(*limits([rows["value"]], floor))
        axes.axhline(floor, color=INK, linewidth=0.8, alpha=0.5)
        axes.set_ylabel(str(rows["unit"].iloc[0]))
        steps_axis(axes, float(table["step"].max()))
        bare(axes, "y")
        legend(axes)


def lines(
    axes: Axes, table: pd.DataFrame, colour: str, name: str, *, points: bool = True, band: bool = True
) -> None:
    """Thin lines of prompts, a thick one of their mean, a band of its interval."""
    prompts = table[table["kind"] == "prompt"]
    many, long = prompts["prompt"].nunique() > MANY, table["step"].nunique() > LONG
    drawn = [line[["step", "value"]].to_numpy() for _, line in prompts.groupby("prompt", sort=False)]
    look: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.2 if many or long else 0.45}
    if many or long or not points:
        ends: dict[str, Any] = {"capstyle": "projecting", "joinstyle": "round"}  # as those of plot
        axes.add_collection(LineCollection(drawn, colors=colour, **look, **ends), autolim=False)
    else:
        for line in drawn:
            axes.plot(*line.T, color=colour, marker=".", markersize=3.5, **look)
    mean = table[table["kind"] == "mean"].sort_values("step")
    if band:
        axes.fill_between(mean["step"], mean["low"], mean["high"], color=colour, alpha=0.2, linewidth=0)
    axes.plot(mean["step"], mean["value"], color=colour, linewidth=1.3 if long else 2.2, label=name)


def two_kinds(rows: pd.DataFrame, by: list[str], column: str, *, exp: bool = False) -> pd.DataFrame:
    """Rows of prompts and of their means, as they are drawn."""
    means = over_prompts(rows, by, column).rename(columns={"mean": "value"})
    own = rows.rename(columns={column: "value"})
    table = pd.concat([own.assign(kind="prompt"), means.assign(kind="mean")], ignore_index=True)
    if exp:
        table[["value", "low", "high"]] = np.exp(table[["value", "low", "high"]])
    return table
