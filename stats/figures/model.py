"""Pictures of where an effect is: between what (variance components), and in which layers and heads."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from ..effects import ALPHA
from ..questions import number, verb
from ..questions_maps import of_prompts
from ..study import Study
from .basis import Basis
from .picture import Picture
from .style import ACCENT, FADED, INK, bare, label, ticks

__all__ = ["dotted", "maps", "variance"]

Array = npt.NDArray[np.floating[Any]]

BOTH = "all modes"
LEVELS = (0.001, 0.01, ALPHA)
NOT_FOUND = (0.875, 0.875, 0.875, 1.0)
GREENS = ("#00553c", "#009E73", "#7fd0b6")  # of q, from the smallest
DIVERGING = LinearSegmentedColormap.from_list(
    "effect", ["#00416b", "#0072B2", "#8ec4e4", "#f4f4f2", "#f0b48a", "#D55E00", "#7a3600"]
)
NO_VALUE = "no-value"
CROSS = 60.0  # square points, of one cell without a value
DOTS = 1200  # cells: beyond it a dot in each hides them
PARTS = {
    "prompt": "prompts",
    "prompt:seed": "seeds within prompts",
    "prompt:mode": "modes within prompts",
    "seed": "seeds, alike in all prompts",
    "Residual": "residual",
}


def variance(of: Basis) -> Picture | None:
    """Q2: what part of all variance is between prompts, between their seeds, between their modes."""
    found = of.answer("prompt_variance")
    parts = None if found is None else found.details["components"]
    if parts is None or isinstance(parts, str):
        return None
    total = sum(max(0.0, value) for value in parts.values())
    if not total > 0:
        return None
    table = pd.DataFrame(
        [
            {"component": name, "meaning": PARTS.get(name, name), "variance": float(value)}
            | {"share": max(0.0, value) / total, "sd": math.sqrt(max(0.0, value))}
            for name, value in parts.items()
        ]
    ).assign(unit=f"{of.study.response}{', log scale' if of.study.logs else ''}")
    most = table.iloc[int(table["variance"].to_numpy().argmax())]
    _, seeds, modes = of.study.y.shape
    return Picture(
        "variance",
        "prompt_variance",
        "What varies",
        f"The largest part is {most['meaning']}: {100 * most['share']:.0f} % of the variance, an SD of "
        f"{number(most['sd'])} (n = {of.prompts} x {seeds} {verb(seeds, 'seed', 'seeds')} x {modes} "
        f"{verb(modes, 'mode', 'modes')}). An estimate below 0 is told as it is and counts as none.",
        "Bars of the variance components.",
        table,
        draw_variance,
        0.34 * len(table) + 0.9,
    )


def draw_variance(figure: Figure, table: pd.DataFrame) -> None:
    """One bar a component, its share and SD beside it."""
    axes = figure.add_subplot()
    y = np.arange(len(table))
    axes.barh(y, table["variance"], height=0.6, color=ACCENT)
    axes.axvline(0, color=INK, linewidth=0.8)
    for at, (_, row) in zip(y, table.iterrows(), strict=True):
        told = f"{100 * row['share']:.0f} %, SD {number(row['sd'])}"
        place = max(0.0, row["variance"]), float(at)
        axes.annotate(told, place, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(y, [label(name, 36) for name in table["meaning"]])
    axes.invert_yaxis()
    low, high = min(0.0, table["variance"].min()), max(0.0, table["variance"].max())
    axes.set_xlim(1.08 * low, high + 0.25 * (high - low))
    axes.set_xlabel(f"variance of {table['unit'].iloc[0]} (squared)")
    bare(axes)


def maps(of: Basis) -> Picture | None:
    """Q11: the effect of every layer and head, by mode, and which of them are found."""
    found, given = of.answer("maps"), of.report.part.maps
    if found is None or given is None:
        return None
    details, study = found.details, of.study
    layers, heads = list(details["layer"]), list(details["head"])
    by = {mode: _mean(replace(study, modes=(mode,)), given) for mode in study.modes}
    panels = by if len(by) > 1 else {}
    shown = {**panels, BOTH if panels else study.modes[0]: np.asarray(details["mean"])}
    q, sure = np.asarray(details["q"]), np.asarray(details["p_max_t"])
    rows = [
        {"panel": panel, "layer": int(layer), "head": int(head), "log_ratio": values[i, j]}
        | {"ratio": math.exp(values[i, j]), "q": q[i, j], "p_max_t": sure[i, j]}
        for panel, values in shown.items()
        for i, layer in enumerate(layers)
        for j, head in enumerate(heads)
    ]
    table, cells = pd.DataFrame(rows), int(np.isfinite(q).sum())
    hits = int(np.sum(q < ALPHA))
    height = min(9.0, max(2.6, 0.17 * len(layers) + 1.3))
    gaps = "; cells with a cross have no value" if details["left_out"] else ""
    return Picture(
        "maps",
        "maps",
        "Where in the model",
        f"Of {cells} layers x heads {hits} {verb(hits, 'is', 'are')} found at a false discovery rate of 5 % "
        f"over prompts (n = {found.n}); the others are faded, not hidden{gaps}. Colour is centred on no "
        f"effect (1x), with the same limits for all modes{dotted(q, sure)}. "
        "q is by Benjamini and Hochberg, of the mean over modes.",
        f"Heat maps of {len(layers)} layers by {len(heads)} heads: effect by mode, and q values.",
        table,
        draw_maps,
        height,
    )


def dotted(q: Array, sure: Array) -> str:
    """What dots mark; a cell can be shown by max-T and not be found by its q."""
    if sure.size > DOTS:
        return ""
    shown, faded = int(np.sum(sure < ALPHA)), int(np.sum((sure < ALPHA) & ~(q < ALPHA)))
    if not shown:
        return "; no cell is shown at a family-wise error of 5 % (max-T)"
    where = f", {faded} of them faded" if faded else ""
    return f"; dots mark cells shown at a family-wise error of 5 % (max-T): {shown}{where}"


def _mean(study: Study, given: Any) -> Array:
    """(layer, head): the mean over prompts that have the cell; NaN where none has."""
    values = of_prompts(study, given)
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(axis=0) / there.sum(axis=0))


def draw_maps(figure: Figure, table: pd.DataFrame) -> None:
    """A panel for each mode, or the only one, and one for q."""
    panels = list(dict.fromkeys(table["panel"]))
    drawn = [name for name in panels if name != BOTH]
    axes = np.atleast_1d(figure.subplots(1, len(drawn) + 1, sharey=True))
    most = float(np.nanmax(np.abs(table.loc[table["panel"].isin(drawn), "log_ratio"]), initial=1e-3))
    limits = Normalize(-most, most)
    for panel, name in zip(axes, drawn, strict=False):
        chosen = table[table["panel"] == name]
        _effect(panel, chosen, limits)
        panel.set_title(label(name))
    scale = ScalarMappable(limits, DIVERGING)
    bar = figure.colorbar(
        scale, ax=axes[: len(drawn)].tolist(), fraction=0.05, pad=0.02, aspect=9 * figure.get_figheight()
    )
    at = [x for x in ticks(math.exp(-most), math.exp(most)) if abs(math.log(x)) <= most]
    bar.ax.yaxis.set_major_locator(FixedLocator([math.log(x) for x in at]))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{math.exp(x):.3g}"))
    bar.set_label("parallel over single (ratio)")
    bar.outline.set_visible(False)
    title = "q of the mean over modes" if len(drawn) > 1 else "q"
    _found(axes[-1], table[table["panel"] == panels[-1]], title)
    axes[0].set_ylabel("layer")


def _grid(rows: pd.DataFrame, column: str) -> tuple[Array, list[int], list[int]]:
    made = rows.pivot(index="layer", columns="head", values=column)
    return made.to_numpy(dtype=np.float64), [int(x) for x in made.index], [int(x) for x in made.columns]


def _effect(axes: Axes, rows: pd.DataFrame, limits: Normalize) -> None:
    """Colours of the effect; faded where it fails the multiplicity control."""
    values, layers, heads = _grid(rows, "log_ratio")
    q, _, _ = _grid(rows, "q")
    colours = DIVERGING(limits(np.nan_to_num(values)))
    colours[~(q < ALPHA)] = _faded(colours[~(q < ALPHA)])
    colours[np.isnan(values), 3] = 0.0
    _show(axes, colours, layers, heads)
    sure, _, _ = _grid(rows, "p_max_t")
    i, j = np.nonzero(sure < ALPHA)
    if sure.size <= DOTS:
        axes.scatter(j, i, s=min(6.0, max(1.0, 800 / sure.size)), color="#000000", linewidth=0)


def _faded(colours: Array) -> Array:
    """Paler and opaque: see-through ones would be dark on a dark page, and look like strong effects."""
    return np.concatenate([FADED * colours[..., :3] + 1 - FADED, colours[..., 3:]], axis=-1)


def _found(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """q in four classes."""
    q, layers, heads = _grid(rows, "q")
    colours = np.zeros((*q.shape, 4))
    colours[np.isfinite(q)] = NOT_FOUND
    for level, colour in zip(reversed(LEVELS), reversed(GREENS), strict=True):
        rgb = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        colours[q < level] = (*rgb, 1.0)
    _show(axes, colours, layers, heads)
    axes.set_title(title)
    for level, colour in zip(LEVELS, GREENS, strict=True):
        axes.scatter([], [], marker="s", s=30, color=colour, label=f"q < {level:g}")
    axes.scatter([], [], marker="s", s=30, color=NOT_FOUND, label="not found")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2)


def _show(axes: Axes, colours: Array, layers: list[int], heads: list[int]) -> None:
    axes.imshow(colours, origin="lower", aspect="auto", interpolation="nearest")
    i, j = np.nonzero(colours[..., 3] == 0)
    if i.size:
        size = max(6.0, CROSS / i.size**0.5)
        axes.scatter(j, i, s=size, marker="x", color=INK, alpha=0.5, linewidth=0.8, gid=NO_VALUE)
    axes.grid(visible=False)
    axes.set_xlabel("head")
    for axis, names in ((axes.xaxis, heads), (axes.yaxis, layers)):
        places = [int(x) for x in MaxNLocator(8, integer=True).tick_values(0, len(names) - 1)]
        places = [x for x in places if 0 <= x < len(names)]
        axis.set_ticks(places, [str(names[x]) for x in places])
