"""Experiment 3: attention among the tokens of one set in visible mode, beside that to prior context."""

import math

import numpy as np
import pandas as pd

from ...words import how_many
from ..effects import ALPHA
from ..questions import between, number, ratio
from ..scenario import NONE
from ..tools.cross import cross_parallel
from .evidence import Evidence
from .result import Experiment, Hypothesis, Measure, Series, largest, over_prompts, series

__all__ = ["experiment"]

TITLE = "Attention between parallel tokens in visible mode"
QUESTION = "Do parallel tokens attend to each other, and how does it compare with prior context?"
H0 = "H0: tokens ignore their siblings (less than a tenth of a context key at the same place)."
H1 = "H1: tokens attend to their siblings (more than 1.10x a context key at the same place)."
MASK = "The mask works: in isolated mode a sibling receives exactly 0."
WEIGHT = "of a row"
GAPS = "attention has gaps: NaN where tokens were seen"
KEYS = (
    ("mean", "cross_parallel_score: per sibling", "the diagonal (a token's own key) left out"),
    ("variance", "variance over pairs of siblings", "of weights averaged over layers and heads"),
    (
        "prior",
        "prior_context_score: per key of the context",
        "all visible keys of earlier sets and the prompt",
    ),
    ("sink", "  of which the sink", "key 0"),
    ("in_prompt", "  of which the prompt", "per key, without key 0"),
    ("generated", "  of which generated tokens", "per key"),
    ("matched", "per key one position before", "the nearest context there is: a position-matched baseline"),
)


def experiment(of: Evidence) -> Experiment:
    """Its measures, hypotheses and outcome."""
    sets = scores(of)
    if not len(sets) or not np.isfinite(sets["mean"]).any():
        why = GAPS if len(sets) else _why_not(of)
        unknown = tuple(Hypothesis(what, "cannot tell", why) for what in (H0, H1))
        return Experiment("exp3", TITLE, QUESTION, (), unknown, f"Cannot tell: {why}.", (why,))
    isolated = (
        "" if len(of.of_mode("isolated")) else "isolated mode is not in this cube: the mask is not checked"
    )
    return Experiment(
        "exp3",
        TITLE,
        QUESTION,
        tuple(_measures(of, sets)),
        (*_tested(of), _mask(of)),
        _outcome(of, sets),
        tuple(filter(None, (isolated, _power(of)))),
        _series(sets),
    )


def scores(of: Evidence) -> pd.DataFrame:
    """One row a set of two or more in visible mode, with its prompt and seed."""
    if of.subjects.attention is None or of.subjects.cube.attrs["captured_queries"] == "last":
        return pd.DataFrame()
    tables = []
    for view in of.views("visible"):
        table = cross_parallel(view).rename(columns={"prompt": "in_prompt"})
        if len(table):
            tables.append(table.assign(prompt=view.place["prompt"], seed=view.place["seed"]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _why_not(of: Evidence) -> str:
    if of.subjects.attention is None:
        return "no attention captured: set capture.attention in the grid"
    if of.subjects.cube.attrs["captured_queries"] == "last":
        return "only the best token's row of each set was captured (queries: last): siblings' rows are needed"
    if not len(of.of_mode("visible")):
        return "visible mode is not in this cube"
    return "no visible experiment has a set of two or more tokens"


def _measures(of: Evidence, sets: pd.DataFrame) -> list[Measure]:
    visible = of.of_mode("visible")
    rows = [
        over_prompts(name, sets, column, WEIGHT * (column != "variance"), note) for column, name, note in KEYS
    ]
    every = "of one layer and head, over all of them"
    rows.insert(1, largest("largest weight on a sibling", visible, "sibling_most", WEIGHT, every))
    rows.append(
        over_prompts(
            "sibling over the key one position before", sets, "ratio", "x", "mean of the sets' ratios"
        )
    )
    rows.append(_at_the_same_place(of))
    rows += [
        over_prompts(f"share of a row on {what}", visible, f"mass_{column}", "", "summed over its keys")
        for column, what in (
            ("siblings", "siblings"),
            ("own", "its own key"),
            ("prompt", "the prompt"),
            ("sink", "the sink"),
        )
    ]
    rows.append(Measure("sets of two or more", f"{len(sets)} sets", float(len(sets)), "sets"))
    return rows


def _at_the_same_place(of: Evidence) -> Measure:
    """The ratio that is tested, over the prompts that the gate lets through; else that of what there is."""
    name = "sibling over context at the same place"
    note = "against the line through the row's context, at distance 0; mean of logs over layers and heads"
    found = of.answer("cross_parallel")
    if found.not_tested is None:
        times, ends = found.details["ratio"], tuple(found.details["ratio_ci"])
        text = f"{ratio(times)} (95 % CI {between(*ends)})"
        return Measure(name, text, times, "x", ends, found.n, note)
    logs = over_prompts(name, of.of_mode("visible"), "cross_parallel", "x", note)
    if logs.number is None:
        return logs
    times = math.exp(logs.number)
    return Measure(name, ratio(times), times, "x", n=logs.n, note=f"{note}; not tested: {found.not_tested}")


def _tested(of: Evidence) -> tuple[Hypothesis, Hypothesis]:
    """H0 by the whole interval, H1 by the one-sided test over prompts."""
    found = of.answer("cross_parallel")
    if found.not_tested is not None or found.ci is None or found.p is None:
        why = f"not tested: {found.not_tested}"
        return Hypothesis(H0, "cannot tell", why), Hypothesis(H1, "cannot tell", why)
    low, high = found.ci
    ignored = "supported" if high < NONE else "not supported" if low > NONE else "cannot tell"
    shown = found.details.get("p_holm", found.p) < ALPHA
    reached = math.exp(found.details["bound"])
    seen = "supported" if shown else "not supported" if high < math.log(reached) else "cannot tell"
    return Hypothesis(H0, ignored, found.sentence), Hypothesis(H1, seen, found.sentence)  # type: ignore[arg-type]


def _mask(of: Evidence) -> Hypothesis:
    isolated = of.of_mode("isolated")
    most = isolated["sibling_most"].to_numpy(dtype=float)
    if not np.isfinite(most).any():
        return Hypothesis(MASK, "cannot tell", "no isolated experiment has a captured row with siblings")
    if not of.tried("isolation"):
        where = f"{of.imported}: " if of.imported else ""
        return Hypothesis(MASK, "cannot tell", f"{where}the check 'isolation' was made of no experiment")
    held = float(np.nanmax(most)) == 0 and not of.checks["isolation"]["fail"]
    among = how_many(len(isolated), "isolated experiment")
    told = f"the largest weight on a sibling is {number(np.nanmax(most))} in {among}"
    return Hypothesis(MASK, "supported" if held else "not supported", told)


def _power(of: Evidence) -> str:
    found = of.answer("cross_parallel")
    return "" if found.not_tested is None else f"H0 and H1 were not tested over prompts: {found.not_tested}"


def _outcome(of: Evidence, sets: pd.DataFrame) -> str:
    means = sets.groupby("prompt")[["mean", "matched"]].mean().mean()
    found = of.answer("cross_parallel")
    told = (
        f"A token gives a sibling {number(means['mean'])} of its attention, and a key one position before "
        f"{number(means['matched'])}"
    )
    return (
        f"{told}. {found.sentence}"
        if found.not_tested is None
        else f"{told}; not tested: {found.not_tested}."
    )


def _series(sets: pd.DataFrame) -> tuple[Series, ...]:
    by_step = sets.groupby(["prompt", "step"]).mean(numeric_only=True).groupby("step").mean()
    return tuple(
        series(f"{name} by step", WEIGHT, "step", by_step.index.to_numpy(), by_step[column])
        for column, name in (("mean", "per sibling"), ("matched", "per key one position before"))
    )
