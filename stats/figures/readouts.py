"""Pictures of readouts: how probable the tokens of sets were, and how far apart the modes' readouts are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...dataset.cube import Index
from ...words import how_many
from .. import divergence
from ..questions import number
from ..study import PAIR
from ..subjects import Subjects
from .basis import Basis
from .picture import Picture
from .steps import lines, two_kinds
from .style import INK, OTHERS, bare, colour_of, legend, limits, ratio_axis, steps_axis

__all__ = ["divergences", "probabilities", "within_bounds"]

Array = npt.NDArray[np.floating[Any]]
Pair = tuple[str, int]

BINS = 20
NOISELESS = "probability of the selected token, without noise"
NOISE = (
    " Tokens were selected by their probability with seeded noise (temperature above 0); shown is the one "
    "without it, which can lie below the threshold."
)
MOST_EXPERIMENTS = 2_000  # of each mode, whose probabilities are shown
MOST_LOGITS = 24_000_000  # numbers, of both modes together: about two seconds
LEAST_PAIRS = 8
BLOCK = 2_000_000  # numbers of one mode in memory
TOPS = (1, 5, 10)  # the cube keeps the best 16 exactly
KL, COSINE, OVERLAP = "KL of isolated from visible (nat)", "cosine of probabilities", "best tokens in common"
TOPS_COLOURS = dict(zip(TOPS, (INK, *OTHERS), strict=False))


def probabilities(of: Basis) -> Picture | None:
    """How probable selected tokens were, and how fast probability falls with rank."""
    if of.report.part.cube is None:
        return None
    subjects = Subjects(of.report.part.cube)
    stored = {name: subjects.cube.read(name) for name in ("probability", "top_logprob")}
    made, read = [], 0
    for mode, indices in _by_mode(subjects).items():
        chosen = indices[:: -(-len(indices) // MOST_EXPERIMENTS)]
        read += len(chosen)
        selected, candidates = _probabilities(subjects, chosen, stored)
        tables = _selected(selected), _candidates(candidates)
        made += [each.assign(mode=mode) for each in tables if len(each)]
    if {each["panel"].iloc[0] for each in made} != {"selected", "candidates"}:
        return None
    table = pd.concat(made, ignore_index=True)
    first = table[(table["panel"] == "candidates") & (table["rank"] == 1)]
    best = ", ".join(f"{number(row['median'])} in {row['mode']}" for _, row in first.iterrows())
    tokens = int(table["n"].max())
    table["unit"] = NOISELESS if (noisy := _noisy(of)) else "probability of the selected token"
    return Picture(
        "probabilities",
        "design",
        "Probabilities of tokens",
        f"The best candidate has a median probability of {best}. Left: the share of selected tokens by their "
        f"probability (n = {tokens:,} tokens in the largest mode).{NOISE if noisy else ''} "
        "Right: the best candidates of every readout by rank, medians with the range of the middle 80 % "
        f"(n = {how_many(read, 'experiment')}).",
        "Histogram of the probability of selected tokens, and probability by rank.",
        table,
        draw_probabilities,
        3.4,
    )


def _noisy(of: Basis) -> bool:
    """Whether tokens were selected with noise; the temperature of what was imported is not known."""
    cube = of.report.part.cube
    grids = cube.attrs["grid"] if cube is not None and not cube.attrs.get("imported") else []
    return bool(grids) and float({**grids[0], **of.report.at}["temperature"]) > 0


def _by_mode(subjects: Subjects) -> dict[str, list[Index]]:
    found: dict[str, list[Index]] = {}
    for index in subjects.indices:
        found.setdefault(subjects.dims["mode"][index[2]], []).append(index)
    return found


def _probabilities(
    subjects: Subjects, chosen: Sequence[Index], stored: dict[str, Array]
) -> tuple[Array, Array]:
    """Of selected tokens (token,), and of candidates (readout, rank)."""
    selected, candidates = [], []
    for index in chosen:
        generated = subjects.small["slot_step"][index] >= 0
        sets = int(np.count_nonzero(subjects.small["width"][index]))
        selected.append(stored["probability"][index][generated])
        candidates.append(np.exp(stored["top_logprob"][index][:sets].astype(np.float64)))
    return np.concatenate(selected), np.concatenate(candidates)


def _selected(values: Array) -> pd.DataFrame:
    """A histogram from 0 to 1; no rows without a value."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return pd.DataFrame()
    counts, ends = np.histogram(finite, BINS, (0.0, 1.0))
    share = counts / max(1, finite.size)
    return pd.DataFrame({"panel": "selected", "from": ends[:-1], "to": ends[1:], "share": share}).assign(
        n=finite.size
    )


def _candidates(values: Array) -> pd.DataFrame:
    """Medians and the middle 80 % by rank; no rows without a value."""
    values = values[:, np.isfinite(values).any(axis=0)]
    if not values.size:
        return pd.DataFrame()
    low, median, high = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    rank = np.arange(1, median.size + 1)
    return pd.DataFrame(
        {"panel": "candidates", "rank": rank, "median": median, "low": low, "high": high}
    ).assign(n=len(values))


def draw_probabilities(figure: Figure, table: pd.DataFrame) -> None:
    """A histogram on the left, probability by rank on the right."""
    left, right = figure.subplots(1, 2)
    for mode in dict.fromkeys(table["mode"]):
        own, colour = table[table["mode"] == mode], colour_of(mode)
        bins = own[own["panel"] == "selected"]
        edges = [*bins["from"], float(bins["to"].iloc[-1])]
        left.stairs(100 * bins["share"], edges, color=colour, linewidth=1.6, label=mode)
        ranks = own[own["panel"] == "candidates"]
        right.fill_between(ranks["rank"], ranks["low"], ranks["high"], color=colour, alpha=0.15, linewidth=0)
        right.plot(ranks["rank"], ranks["median"], color=colour, marker="o", markersize=3.5, label=mode)
    left.set(xlim=(0, 1), xlabel=str(table["unit"].iloc[0]), ylabel="selected tokens (%)")
    left.set_ylim(bottom=0)
    ranked = [table[name] for name in ("median", "low", "high")]
    ratio_axis(right, "y", limits(ranked, 1.0, log=True), "probability (log scale)")
    right.set_xlabel("rank of the candidate")
    right.set_xticks(range(1, int(table["rank"].max()) + 1, 3))
    for axes in (left, right):
        bare(axes, "y")
        legend(axes)


def divergences(of: Basis) -> Picture | None:
    """Q10: how far apart the two modes' readouts are at each step."""
    found, part = of.answer("logits"), of.report.part
    if found is None or part.cube is None or part.between is None or "logits" not in part.cube:
        return None
    rows = part.between[part.between["prompt"].isin(of.study.prompts)]
    compared = {
        (str(row["prompt"]), int(row["seed"])): int(row["compared_steps"]) for _, row in rows.iterrows()
    }
    pairs, stride = within_bounds(compared, part.cube.sizes["vocab"])
    if not pairs:
        return None
    read = part.cube[["logits"]].assign(top_token=part.cube["top_token"].compute())  # small, in one chunk
    made = pd.DataFrame([row for pair in pairs for row in _of_pair(read, pair, compared[pair], stride)])
    own = made.groupby(["measure", "prompt", "step"], sort=False)["value"].mean().reset_index()
    table = two_kinds(own, ["measure", "step"], "value")
    told = f"{len(pairs)} of {how_many(len(compared), 'pair')} of experiments"
    told += f", every {stride}th step" if stride > 1 else ""
    kl = table[(table["kind"] == "mean") & (table["measure"] == KL)]
    worst = kl.iloc[int(kl["value"].to_numpy().argmax())]
    return Picture(
        "divergences",
        "logits",
        "How far apart the modes' readouts are",
        f"The mean KL is largest at step {int(worst['step'])} ({number(worst['value'])} nat); 0 nat, a "
        "cosine of 1 and a share of 1 mean that the modes read out the same. Thin lines are prompts, thick "
        "ones their mean, with its 95 % interval for KL where at least four prompts have the step "
        f"(n = {own['prompt'].nunique()} prompts; read: {told}). Where sets differ between the modes, steps "
        "end with the first that does.",
        "KL, cosine and overlap of the best tokens between isolated and visible over steps.",
        table,
        draw_divergences,
        3.3,
    )


def within_bounds(compared: dict[Pair, int], vocab: int) -> tuple[list[Pair], int]:
    """Pairs to read, every prompt's first ones first, and every how many-th step."""
    seen: dict[str, int] = {}
    turn = {}
    for pair, steps in compared.items():
        if steps:
            seen[pair[0]] = turn[pair] = seen.get(pair[0], 0) + 1
    ordered = sorted(turn, key=lambda pair: turn[pair])
    budget = max(1, MOST_LOGITS // (2 * vocab))
    longest = max((compared[pair] for pair in ordered), default=1)
    chosen = ordered[: max(LEAST_PAIRS, budget // longest)]
    return chosen, max(1, -(-len(chosen) * longest // budget))


def _of_pair(cube: xr.Dataset, pair: Pair, compared: int, stride: int) -> list[dict[str, Any]]:
    """One row for each measure and step; both modes are read block by block."""
    prompt, seed = pair
    cells = cube.sel(prompt=prompt, seed=seed, mode=list(PAIR))
    swept = {dim: 0 for dim in cells.dims if dim not in ("mode", "step", "vocab", "rank")}
    cells = cells.isel(swept).transpose("mode", "step", ...)
    steps = np.arange(0, compared, stride)
    size = max(1, BLOCK // cube.sizes["vocab"])
    rows: list[dict[str, Any]] = []
    for start in range(0, len(steps), size):
        here = steps[start : start + size]
        p, q = divergence.normalised(cells["logits"].isel(step=here).values)
        best = cells["top_token"].isel(step=here).values
        found = {KL: divergence.kl(p, q), COSINE: divergence.cosine(np.exp(p), np.exp(q))}
        found |= {_overlap(k): divergence.jaccard(best[0][:, :k], best[1][:, :k]) for k in TOPS}
        rows += [
            {"measure": name, "prompt": prompt, "seed": seed, "step": int(step), "value": float(value)}
            for name, values in found.items()
            for step, value in zip(here, values, strict=True)
        ]
    return rows


def _overlap(k: int) -> str:
    return f"{OVERLAP} (Jaccard of best {k})"


def draw_divergences(figure: Figure, table: pd.DataFrame) -> None:
    """KL, cosine, and the overlaps together."""
    panels = figure.subplots(1, 3)
    last = float(table["step"].max())
    for axes, name in zip(panels, (KL, COSINE), strict=False):
        rows = table[table["measure"] == name]
        lines(axes, rows, colour_of("isolated"), "mean of prompts", band=name == KL)
        _ends(axes, rows, 0.0 if name == KL else 1.0)
        axes.set_ylabel(name)
    for k in TOPS:
        rows = table[table["measure"] == _overlap(k)]
        lines(panels[2], rows[rows["kind"] == "mean"], TOPS_COLOURS[k], f"best {k}", band=False)
    panels[2].set_ylabel("share of the best k in common (Jaccard)")
    panels[2].set_ylim(0, 1.03)
    panels[2].axhline(1.0, color=INK, linewidth=0.8, alpha=0.5)
    for axes in panels:
        steps_axis(axes, last, "step")
        bare(axes, "y")
        legend(axes, ncols=3, handlelength=1.2, columnspacing=1.0)


def _ends(axes: Axes, rows: pd.DataFrame, same: float) -> None:
    """Limits that show every prompt, with a line where the modes are the same."""
    axes.set_ylim(*limits([rows["value"]], same))
    axes.axhline(same, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
