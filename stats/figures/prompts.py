"""Pictures with a row for each prompt: the forest, and the difference of the modes."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..questions import Answer, between
from ..study import PAIR, mean_over
from .basis import Basis, told
from .picture import Picture
from .style import (
    ACCENT,
    INK,
    OTHERS,
    bare,
    colour_of,
    label,
    legend,
    values_axis,
)

__all__ = ["forest", "modes"]

FEW = 30  # points of a prompt are shown where there are fewer
ROW = 0.2  # inch
SUMMARY = ("mean", "prediction", "equivalence")
NAMED = {
    "mean": "mean, 95 % CI",
    "prediction": "a new prompt, 95 %",
    "equivalence": "mean, 90 % CI (TOST)",
}


def forest(of: Basis) -> Picture | None:
    """Q1: every prompt by category, the mean with its interval, and where a new prompt is expected."""
    found = of.answer("downweighting")
    if found is None or found.ci is None or found.estimate is None:
        return None
    table = told(of, _of_forest(of, found), of.unit)
    ends, mean = of.shown(np.array(found.ci)), of.in_words(found.estimate)
    same = int(sum(np.sign(of.study.means) == np.sign(found.estimate)))
    side = f"{same} of {of.prompts} lie on the same side of 1x as the mean. " if of.study.logs else ""
    new = table[table["kind"] == "prediction"]
    expected = "".join(
        f", and a new prompt is expected at {between(row['low'], row['high'])}" for _, row in new.iterrows()
    )
    return Picture(
        "forest",
        "downweighting",
        "Every prompt, by category",
        f"{side}The mean is {mean} (95 % CI {between(*ends)}, n = {of.prompts}{_by_model(of)}){expected}. "
        f"{_single(table, 'experiment', 'experiments (seed and mode)')} Diamonds are prompt means; "
        + ("the dashed line is no effect." if of.study.logs else "there is no value of no effect."),
        f"Forest plot of {of.prompts} by category with the mean {mean} and its interval.",
        table,
        draw_forest,
        _height(table),
    )


def _by_model(of: Basis) -> str:
    """What the diamonds alone come to, where the answer is another mean."""
    plain = of.in_words(float(of.study.means.mean()))
    return f"; by {of.modelled}: the diamonds' own mean is {plain}" if of.modelled else ""


def _single(table: pd.DataFrame, kind: str, what: str) -> str:
    """What small points are, or that there would be too many."""
    if (table["kind"] == kind).any():
        return f"Small points are single {what}."
    return f"Single {what} are not shown, with {FEW} or more in a prompt."


def _if_few(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of small points, none where a prompt has too many to tell apart."""
    most = max(Counter(row["prompt"] for row in rows).values(), default=0)
    return rows if most < FEW else []


def _of_forest(of: Basis, found: Answer) -> list[dict[str, Any]]:
    """Experiments, prompt means, the mean, and a new prompt."""
    study, new = of.study, of.answer("generalisation")
    own = study.frame[study.frame["mode"].isin(study.modes) & study.frame["prompt"].isin(study.prompts)]
    own = own[own[study.response].notna()]
    columns = (own[name] for name in ("prompt", "seed", "mode", study.response))
    rows = _if_few(
        [
            {"kind": "experiment", "prompt": prompt, "seed": seed, "mode": mode, "value": of.shown(value)}
            for prompt, seed, mode, value in zip(*columns, strict=True)
        ]
    )
    rows += [
        {"kind": "prompt", "prompt": name, "value": of.shown(x)}
        for name, x in zip(study.prompts, study.means, strict=True)
    ]
    rows.append({"kind": "mean", **_ends(of.shown, found.estimate, found.ci)})
    if new is not None:
        rows.append({"kind": "prediction", **_ends(of.shown, new.estimate, new.ci)})
    return rows


def modes(of: Basis) -> Picture | None:
    """Q8: visible over isolated for every prompt, with the band of equivalence."""
    found, study = of.answer("modes"), of.study
    if found is None or found.ci is None:
        return None
    unit = "visible over isolated: ratio of ratios" if study.logs else f"visible - isolated: {study.response}"
    table = told(of, _of_modes(of, found), unit)
    several = study.y.shape[1] > 1
    small = f" {_single(table, 'seed', 'seeds')}" if several else ""
    return Picture(
        "modes",
        "modes",
        "Visible against isolated, prompt by prompt",
        f"{_within(found.details, study.logs)} Diamonds are prompts (n = {found.n}).{small} The mean's 95 % "
        "interval is for a difference, its 90 % interval, if it lies within the band, for equivalence.",
        f"Difference of the two modes in {found.n} prompts, with the mean and the band of equivalence.",
        table,
        draw_modes,
        _height(table),
    )


def _of_modes(of: Basis, found: Answer) -> list[dict[str, Any]]:
    """Seeds where there are several, prompts, the mean by both intervals, and the band."""
    study, tost = of.study, found.details["tost"]
    both = study.table(study.response, PAIR)
    apart = both[..., 1] - both[..., 0]
    seeds = study.seeds[: apart.shape[1]]
    rows = _if_few(
        [
            {"kind": "seed", "prompt": name, "seed": seed, "value": of.shown(apart[i, j])}
            for i, name in enumerate(study.prompts)
            for j, seed in enumerate(seeds)
            if len(seeds) > 1 and np.isfinite(apart[i, j])
        ]
    )
    rows += [
        {"kind": "prompt", "prompt": name, "value": of.shown(x)}
        for name, x in zip(study.prompts, mean_over(apart, 1), strict=True)
        if np.isfinite(x)
    ]
    rows.append({"kind": "mean", **_ends(of.shown, found.estimate, found.ci)})
    if tost["bound"] is not None:
        rows.append({"kind": "equivalence", **_ends(of.shown, found.estimate, tost["ci90"])})
        rows.append({"kind": "band", "low": of.shown(-tost["bound"]), "high": of.shown(tost["bound"])})
    return rows


def draw_forest(figure: Figure, table: pd.DataFrame) -> None:
    """Rows of prompts under the names of their categories."""
    axes = figure.add_subplot()
    places = _rows(axes, table)
    mean = table[table["kind"] == "mean"].iloc[0]
    axes.axvspan(mean["low"], mean["high"], color=ACCENT, alpha=0.10, linewidth=0)
    _points(axes, table[table["kind"] == "experiment"], places, "mode")
    _summary(axes, table, places)
    _finish(axes, table, 1.0 if _scale(table) == "log" else None)


def draw_modes(figure: Figure, table: pd.DataFrame) -> None:
    """The same for differences, with the band in which modes are equivalent."""
    axes = figure.add_subplot()
    places = _rows(axes, table)
    for _, band in table[table["kind"] == "band"].iterrows():
        axes.axvspan(
            band["low"], band["high"], color=OTHERS[0], alpha=0.18, linewidth=0, label="equivalence band"
        )
    _points(axes, table[table["kind"] == "seed"], places, None)
    _summary(axes, table, places)
    _finish(axes, table, 1.0 if _scale(table) == "log" else 0.0)


def _ends(shown: Callable[[Any], Any], middle: Any, ends: Any) -> dict[str, float]:
    return {"value": shown(middle), "low": shown(ends[0]), "high": shown(ends[1])}


def _within(details: Any, logs: bool) -> str:
    """Whether the interval lies within the band."""
    tost = details["tost"]
    if tost["bound"] is None:
        return "Whether the modes are equivalent was not tested: no band was given."
    ends = (
        f"{between(math.exp(-tost['bound']), math.exp(tost['bound']))}x" if logs else f"+-{tost['bound']:.3g}"
    )
    if details["equivalent"]:
        return f"The mean's 90 % interval lies within the band of equivalence ({ends})."
    return f"The mean's 90 % interval does not lie within the band of equivalence ({ends})."


def _height(table: pd.DataFrame) -> float:
    prompts = table.loc[table["kind"] == "prompt"]
    rows = len(prompts) + prompts["category"].nunique() + table["kind"].isin(SUMMARY).sum()
    return float(max(2.4, ROW * rows + 1.0))


def _rows(axes: Axes, table: pd.DataFrame) -> dict[str, int]:
    """Where each prompt and each summary lies; names of categories stand above their prompts."""
    places: dict[str, int] = {}
    names: list[str] = []
    prompts = table[table["kind"] == "prompt"]
    for category, group in prompts.groupby("category", sort=False):
        names.append(label(str(category), 36))
        for _, row in group.iterrows():
            places[row["prompt"]] = len(names)
            names.append(label(row["text"], 44))
    for kind in table.loc[table["kind"].isin(SUMMARY), "kind"]:
        places[kind] = len(names)
        names.append(NAMED[kind])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.3, -0.7)
    headings = set(range(len(names))) - set(places.values())
    for i, tick in enumerate(axes.yaxis.get_major_ticks()):
        if i in headings:
            tick.label1.set_alpha(0.65)
            tick.tick1line.set_visible(False)
    return places


def _points(axes: Axes, rows: pd.DataFrame, places: dict[str, int], by: str | None) -> None:
    """Single experiments, a little above and below the line of their prompt."""
    if rows.empty:
        return
    kinds = list(dict.fromkeys(rows[by])) if by else ["seeds"]
    for k, kind in enumerate(kinds):
        chosen = rows[rows[by] == kind] if by else rows
        y = chosen["prompt"].map(places) + 0.28 * (k - (len(kinds) - 1) / 2)
        colour = colour_of(str(kind)) if by else INK
        alpha = 0.75 if by else 0.45
        axes.scatter(chosen["value"], y, s=9, color=colour, alpha=alpha, linewidth=0, label=str(kind))


def _summary(axes: Axes, table: pd.DataFrame, places: dict[str, int]) -> None:
    """Prompt means, then the mean with its intervals below a line."""
    means = table[table["kind"] == "prompt"]
    y = means["prompt"].map(places)
    axes.scatter(means["value"], y, s=26, marker="D", color=INK, linewidth=0, zorder=3, label="prompt mean")
    for _, row in table[table["kind"].isin(SUMMARY)].iterrows():
        at = places[row["kind"]]
        wide = 5.0 if row["kind"] == "prediction" else 2.2
        alpha = 0.35 if row["kind"] == "prediction" else 1.0
        axes.hlines(at, row["low"], row["high"], color=ACCENT, linewidth=wide, alpha=alpha, zorder=2)
        if row["kind"] != "prediction":
            axes.scatter([row["value"]], [at], s=40, marker="D", color=ACCENT, linewidth=0, zorder=3)
    first = min(places[kind] for kind in SUMMARY if kind in places)
    axes.axhline(first - 0.5, color=INK, linewidth=0.6, alpha=0.5)


def _finish(axes: Axes, table: pd.DataFrame, null: float | None) -> None:
    columns = [table["value"], table["low"], table["high"]]
    values_axis(axes, "x", columns, str(table["unit"].iloc[0]), _scale(table), null)
    bare(axes)
    legend(axes)


def _scale(table: pd.DataFrame) -> str:
    return str(table["scale"].iloc[0])
