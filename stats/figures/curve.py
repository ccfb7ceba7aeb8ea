"""The specification curve: the down-weighting under every reasonable way to analyse it, in one picture."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ..questions import Answer, between, percent, ratio
from ..questions_maps import CELLS
from ..routes import KENWARD
from ..study import Study, mean_over, settled
from .basis import Basis
from .picture import Picture
from .style import ACCENT, INK, OTHERS, bare, limits, ratio_axis, reference

__all__ = ["curve", "summaries"]

Array = npt.NDArray[np.floating[Any]]

TRIM = 0.2
FEWEST = 5  # prompts: a median or a trimmed mean of fewer has no interval to speak of
LEVEL = 0.95
CLOSE = 1e-6  # on the log scale: estimates and intervals this close are one analysis
FAR = 3.0  # beyond the estimates, intervals are cut
ENDS = ("estimate", "low", "high")
ALL = "all layers"
FEW_LAYERS = 4  # layers that a label names
CHOICES = ("measure", "layers", "modes", "prompts", "average", "summary")
MEASURES = {  # column: what it is called, and whether it asks what the answer asks
    "downweighting": ("per token, distance held", True),
    "single_baseline": ("beside mode single", True),
    "downweighting_per_set": ("whole sets (another estimand)", False),
    "legacy_ratio": ("legacy ratio, sink and prompt in", False),
}
KINDS = {True: ACCENT, False: OTHERS[0]}


@dataclass(frozen=True, slots=True)
class Summary:
    """An estimate over prompts with its 95 % interval, all on the scale of logs."""

    estimate: float
    low: float
    high: float


def curve(of: Basis) -> Picture | None:
    """Q1 under all choices: measure, layers, modes, prompts, logs or ratios, mean, median or trimmed mean."""
    found, study = of.answer("downweighting"), of.study
    if found is None or found.estimate is None or study.response != "downweighting":
        return None
    outliers = of.answer("outliers")
    flagged = [] if outliers is None else outliers.details["flagged"]
    table = pd.DataFrame(list(_specifications(study, flagged, of.report.part.maps, _measured(of))))
    if len(table) < 2:
        return None
    table = _with_reported(table, found, study, _measured(of))
    table = table.sort_values("estimate", kind="stable", ignore_index=True)
    table.insert(0, "place", np.arange(len(table)))
    fair = table[table["same_question"]]
    same = float((np.sign(np.log(fair["estimate"])) == np.sign(found.estimate)).mean())
    apart = float(((fair["low"] > 1) | (fair["high"] < 1)).mean())
    legacy = table.loc[table["measure"] == MEASURES["legacy_ratio"][0], "estimate"]
    said = f" The legacy ratio says {between(legacy.min(), legacy.max())}x." if len(legacy) else ""
    return Picture(
        "curve",
        "downweighting",
        "Does the answer depend on how one analyses it?",
        f"Of {len(fair)} analyses of the same question {percent(same)} lie on the same side of 1x as the "
        f"answer ({ratio(math.exp(found.estimate))}), and {percent(apart)} have an interval without 1x; they "
        f"range from {between(fair['estimate'].min(), fair['estimate'].max())}x (n = {of.prompts}).{said} "
        "Above: each analysis with its 95 % interval, sorted (very wide ones are cut), the one reported in a "
        "ring; below: its choices. "
        "Other estimands, the legacy ratio among them, are in another colour and not counted.",
        f"{len(table)} analyses sorted by estimate, with the choices that each is made of.",
        table,
        draw_curve,
        6.0,
    )


def _with_reported(table: pd.DataFrame, found: Answer, study: Study, layers: str) -> pd.DataFrame:
    """The analyses with the reported one marked, which is a row of its own where none of them is it."""
    ends = found.estimate, *(found.ci or (np.nan, np.nan))
    own = np.exp(np.array(ends, dtype=np.float64))
    usual = [MEASURES["downweighting"][0], layers, " and ".join(study.modes), "all prompts", "logs"]
    is_it = (table[list(CHOICES)] == [*usual, "mean"]).all(axis=1)
    apart = np.abs(np.log(table[list(ENDS)].to_numpy(dtype=np.float64) / own)).max(axis=1)
    is_it &= pd.Series(apart < CLOSE, index=table.index)
    if is_it.any():
        return table.assign(reported=is_it)
    how = "mixed model" if KENWARD in found.method else "mean"
    how += ", bootstrap-t" if found.details.get("by_bootstrap") else ""
    row = dict(zip((*CHOICES, *ENDS), (*usual, how, *own), strict=True))
    row |= {"n": found.n, "same_question": True, "reported": True}
    return pd.concat([table.assign(reported=False), pd.DataFrame([row])], ignore_index=True)


def _measured(of: Basis) -> str:
    """What the layers are called that were measured: not all of them, where some were chosen."""
    cube, chosen = of.report.part.cube, of.report.source.get("layers")
    if cube is None or chosen is None or len(chosen) == cube.attrs["model"]["layers"]:
        return ALL
    if len(chosen) <= FEW_LAYERS:
        return f"layer{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
    return f"{len(chosen)} of {cube.attrs['model']['layers']} layers"


def _specifications(study: Study, flagged: list[str], maps: Any, layers: str) -> Iterator[dict[str, Any]]:
    """One row for each combination of choices that has a value."""
    values = {**_columns(study, layers), **_by_layers(study, maps, layers)}
    rest = [name for name in study.prompts if name not in flagged]
    kept = {"all prompts": study.prompts} | ({"without outliers": rest} if flagged and rest else {})
    modes = {" and ".join(study.modes): study.modes} if len(study.modes) > 1 else {}
    modes |= {mode: (mode,) for mode in study.modes}
    for (measure, part), (mode, of), (who, names), average in product(
        values, modes.items(), kept.items(), ("logs", "ratios")
    ):
        chosen = [study.modes.index(each) for each in of]
        places = [study.prompts.index(name) for name in names]
        y = values[measure, part][places][..., chosen]
        x = _of_prompts(y, average)
        for how, found in summaries(x, average).items():
            named = dict(zip(CHOICES, (MEASURES[measure][0], part, mode, who, average, how), strict=True))
            ends = (found.estimate, found.low, found.high)
            shown = dict(zip(ENDS, map(math.exp, ends), strict=True))
            yield named | shown | {"n": x.size, "same_question": MEASURES[measure][1]}


def _columns(study: Study, layers: str) -> dict[tuple[str, str], Array]:
    """(prompts, seeds, modes) of every measure that the frame has, on the scale of logs."""
    found = {}
    for name in MEASURES:
        if name in study.frame.columns and study.frame[name].notna().any():
            table = study.table(name)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log(table) if name == "legacy_ratio" else table
            found[name, layers] = np.where(np.isfinite(logs), logs, np.nan)
    return found


def _by_layers(study: Study, maps: Any, layers: str) -> dict[tuple[str, str], Array]:
    """The down-weighting of parts of the model: it is linear in heads, so a mean over them is theirs."""
    if maps is None or maps.sizes["layer"] < 2:
        return {}
    swept = {dim: 0 for dim in maps.dims if dim not in ("prompt", "seed", "mode", *CELLS)}
    own = maps.isel(swept).sel(prompt=list(study.prompts), mode=list(study.modes))
    heads = own.transpose("layer", "prompt", "seed", "mode", "head").values
    by_layer = mean_over(np.asarray(heads, dtype=np.float64), 4)
    found = {}
    for name, part in _parts(len(by_layer)).items():
        values = mean_over(by_layer[part], 0)
        found["downweighting", name if layers == ALL else f"{name} of them"] = (
            mean_over(values, 1)[:, None] if study.copies else values
        )
    return found


def _parts(layers: int) -> dict[str, slice]:
    half = layers // 2
    parts = {"first half": slice(half), "second half": slice(half, None)}
    if layers < 3:
        return parts
    ends = [round(layers * k / 3) for k in range(4)]
    names = ("first third", "middle third", "last third")
    return parts | {name: slice(ends[k], ends[k + 1]) for k, name in enumerate(names)}


def _of_prompts(y: Array, average: str) -> Array:
    """(prompts,) means of experiments, over logs or over ratios; prompts without a value are left out."""
    means = settled(y if average == "logs" else np.exp(y))
    return np.asarray(means[np.isfinite(means)])


def summaries(x: Array, average: str) -> dict[str, Summary]:
    """Mean, median and trimmed mean of x (prompts,), told on the scale of logs."""
    ways: Mapping[str, Callable[[Array], tuple[float, float, float]]] = {"mean": _mean}
    if x.size >= FEWEST:
        ways = {**ways, "median": _median, "trimmed 20 %": _trimmed}
    if x.size < 2 or not x.std(ddof=1) > 0:
        return {}
    return {name: _as_logs(how(x), average) for name, how in ways.items()}


def _as_logs(found: tuple[float, float, float], average: str) -> Summary:
    """Of ratios the interval is symmetric in logs (delta method), so that it stays above 0."""
    middle, low, high = found
    if average == "logs":
        return Summary(middle, low, high)
    below, above = ((end - middle) / middle for end in (low, high))
    return Summary(math.log(middle), math.log(middle) + below, math.log(middle) + above)


def _mean(x: Array) -> tuple[float, float, float]:
    reach = float(stats.t.ppf((1 + LEVEL) / 2, x.size - 1)) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return float(x.mean()), float(x.mean()) - reach, float(x.mean()) + reach


def _median(x: Array) -> tuple[float, float, float]:
    """The interval between two order statistics; the outermost ones where five prompts give no 95 %."""
    ordered = np.sort(x)
    cut = max(0, int(stats.binom.ppf((1 - LEVEL) / 2, x.size, 0.5)) - 1)
    return float(np.median(x)), float(ordered[cut]), float(ordered[x.size - 1 - cut])


def _trimmed(x: Array) -> tuple[float, float, float]:
    """Yuen's interval, from the winsorised variance."""
    cut = int(TRIM * x.size)
    ordered = np.sort(x)
    left = x.size - 2 * cut
    winsorised = np.clip(ordered, ordered[cut], ordered[x.size - 1 - cut])
    se = float(winsorised.std(ddof=1)) * math.sqrt(x.size - 1) / math.sqrt(left * (left - 1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, left - 1)) * se
    middle = float(ordered[cut : x.size - cut].mean())
    return middle, middle - reach, middle + reach


def draw_curve(figure: Figure, table: pd.DataFrame) -> None:
    """Estimates above, the dots of their choices below."""
    rows = _choices(table)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 0.062 * len(rows) + 0.2))
    for fair, colour in KINDS.items():
        chosen = table[table["same_question"] == fair]
        if chosen.empty:
            continue
        name = "the same question" if fair else "another estimand, or the legacy ratio"
        above.vlines(chosen["place"], chosen["low"], chosen["high"], color=colour, alpha=0.35, linewidth=1.2)
        above.scatter(chosen["place"], chosen["estimate"], s=9, color=colour, zorder=3, label=name)
    own = table[table["reported"]]
    ring = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.2, "zorder": 4}
    above.scatter(own["place"], own["estimate"], s=52, label="the answer as reported", **ring)
    ratio_axis(above, "y", _ends(table), "parallel over single (ratio)")
    reference(above, "y", 1.0)
    bare(above, "y")
    above.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.2)
    above.tick_params(bottom=False)
    _matrix(below, table, rows)


def _ends(table: pd.DataFrame) -> tuple[float, float]:
    """All estimates, and intervals as far as they do not flatten them."""
    low, high = table["estimate"].min() / FAR, table["estimate"].max() * FAR
    return limits([table["low"].clip(lower=low), table["high"].clip(upper=high)], 1.0, log=True)


def _choices(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(choice, value) of all that were varied."""
    varied = [choice for choice in CHOICES if table[choice].nunique() > 1]
    return [(choice, value) for choice in varied for value in _ordered(table, choice)]


def _ordered(table: pd.DataFrame, choice: str) -> list[str]:
    values = sorted(set(table[choice]))
    if choice == "layers":
        parts = list(_parts(3))
        return sorted(values, key=lambda name: parts.index(own) if (own := _part(name)) in parts else -1)
    if choice == "measure":
        return [name for name, _ in MEASURES.values() if name in values]
    return values


def _part(layers: str) -> str:
    return layers.removesuffix(" of them")


def _matrix(axes: Axes, table: pd.DataFrame, rows: list[tuple[str, str]]) -> None:
    """A row for each value of each choice, a dot where an analysis has it."""
    y, names, last = 0.0, [], ""
    for choice, value in rows:
        y += 0.0 if choice == last or not last else 0.5
        chosen = table[table[choice] == value]
        colours = [KINDS[fair] for fair in chosen["same_question"]]
        axes.scatter(chosen["place"], [y] * len(chosen), s=7, marker="|", c=colours, linewidth=1.1)
        names.append((y, f"{choice}: {value}" if choice != last else value))
        last, y = choice, y + 1.0
    axes.set_yticks([at for at, _ in names], [name for _, name in names], fontsize=7.5)
    axes.set_ylim(y - 0.4, -0.6)
    axes.set_xlim(-1, len(table))
    axes.set_xlabel(f"analyses, sorted by estimate (1 to {len(table)})")
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xticks([])
