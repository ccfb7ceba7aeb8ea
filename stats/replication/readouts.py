"""Experiment 2: next-token distributions of the two modes, step by step while they stand on one prefix."""

import numpy as np
import pandas as pd

from ...words import how_many
from .. import closed
from ..questions import between, number
from ..scenario import SAME_TOKENS
from ..tools import compare
from ..view import View
from .evidence import NOT_BOTH, Evidence
from .result import Experiment, Hypothesis, Measure, Series, Verdict, count, largest, over_prompts, series

__all__ = ["experiment", "outcome"]

SAME_KL = 1e-6  # nat: below it two distributions are the same, unless a noise floor was measured
SELECTION = "The mode does not change which tokens are selected."
TITLE = "Next-token distributions of isolated and of visible mode"
QUESTION = "Are the distributions identical, or only the most probable tokens?"
EXPECTED = (
    "The distributions are identical: prior context dominates.",
    "The distributions differ, and of the ten most probable tokens at most one in ten is exchanged.",
    "The distributions differ, and so do the most probable tokens: the modes behave differently.",
)
NOT_CAPTURED = "no logits captured: set capture.logits in the grid"
KINDS = (
    ("kl", "KL(isolated || visible)", "nat"),
    ("kl_back", "KL(visible || isolated)", "nat"),
    ("js", "Jensen-Shannon divergence", "nat"),
    ("cosine", "cosine of probabilities", ""),
    ("cosine_logits", "cosine of logits, each around its mean", ""),
    ("cosine_logprobs", "cosine of log-probabilities", ""),
)
TIES = "of equal tokens the lower id comes first"


def experiment(of: Evidence) -> Experiment:
    """Its measures, hypotheses and outcome."""
    if of.between is None or not len(of.between):
        return _nothing(NOT_BOTH)
    if "logits" not in of.subjects.cube.data:
        return _nothing(NOT_CAPTURED)
    steps = compared(of)
    reached = steps[steps["after_set"]]
    if not len(reached):
        return _nothing("no step that was compared comes after a set of two or more tokens")
    which, reason = outcome(of, steps, reached)
    untreated = of.without_treatment()
    said = f"{EXPECTED[which]} {reason}." if which is not None else f"Cannot tell: {reason}."
    if untreated:
        said = f"{reason}. But {untreated}, so this says nothing of visibility."
    return Experiment(
        "exp2",
        TITLE,
        QUESTION,
        tuple(_measures(of, steps, reached)),
        (*_hypotheses(which, reason, untreated), _selection(of, reached, untreated)),
        said,
        _not_measured(of),
        _series(steps),
    )


def compared(of: Evidence) -> pd.DataFrame:
    """One row a step of every pair: how far apart its readouts are, whether a parallel set came before."""
    tables = []
    for one, other in of.pairs():
        table = compare.logits(one, other)
        place = {name: one.place[name] for name in ("prompt", "seed")}
        tables.append(table.assign(**place, after_set=table["step"] > _first_wide(one)))
    return pd.concat(tables, ignore_index=True)


def outcome(of: Evidence, steps: pd.DataFrame, reached: pd.DataFrame) -> tuple[int | None, str]:
    """Which of the three expected outcomes the numbers speak for, and which numbers; None: none of them."""
    floor = of.frame.attrs.get("noise_floor", {}).get("kl") or 0.0
    bar, most = max(SAME_KL, floor), float(steps["kl"].max())
    if most <= bar:
        return (
            0,
            f"The largest KL divergence is {number(most)} nat, and up to {number(bar)} nat counts as none",
        )
    means = reached.groupby("prompt")["overlap_10"].mean().to_numpy(dtype=np.float64)
    low = high = float(means.mean())
    told = f"The KL divergence reaches {number(most)} nat; the ten best tokens overlap by {number(low)}"
    if means.size > 1 and means.std(ddof=1) > 0:
        ends = closed.tost(means, 1.0)
        low, high = float(ends.low), float(ends.high)
        told += f" (90 % CI {between(low, high)}, {means.size} prompts)"
    elif means.size == 1:
        told += " in this one prompt"
    told += f", where {number(SAME_TOKENS)} is one in ten exchanged"
    if low >= SAME_TOKENS:
        return 1, told
    return (2, told) if high < SAME_TOKENS else (None, told)


def _first_wide(view: View) -> float:
    """The first step with a set of two or more: up to it all modes read out the same by construction."""
    return float(view.wide_steps[0]) if view.wide_steps else float("inf")


def _nothing(why: str) -> Experiment:
    unknown = tuple(Hypothesis(what, "cannot tell", why) for what in (*EXPECTED, SELECTION))
    return Experiment("exp2", TITLE, QUESTION, (), unknown, f"Cannot tell: {why}.", (why,))


def _measures(of: Evidence, steps: pd.DataFrame, reached: pd.DataFrame) -> list[Measure]:
    after = "mean over the steps after the first parallel set, up to the first set that differs"
    rows = [over_prompts(name, reached, column, unit, after) for column, name, unit in KINDS]
    rows.append(largest("largest KL(isolated || visible)", steps, "kl", "nat"))
    every = "mean over all steps compared: those up to the first parallel set are the same by construction"
    rows.append(over_prompts("KL(isolated || visible), all steps", steps, "kl", "nat", every))
    for k in compare.TOPS:
        note = f"Jaccard overlap of the {k} most probable tokens; {TIES}"
        rows.append(over_prompts(f"overlap of the top {k}", reached, f"overlap_{k}", "", note))
    total = int(of.frame[of.frame["mode"] == "isolated"]["sets"].sum())
    rows.append(count("steps compared", len(steps), total, "steps of isolated mode"))
    rows.append(count("steps after the first parallel set", len(reached), len(steps), "steps compared"))
    return rows


def _hypotheses(which: int | None, reason: str, untreated: str) -> tuple[Hypothesis, ...]:
    def verdict(number_of: int) -> Verdict:
        if untreated or (which is None and number_of > 0):
            return "cannot tell"
        return "supported" if which == number_of else "not supported"

    told = f"{reason}; but {untreated}" if untreated else reason
    return tuple(Hypothesis(what, verdict(i), told) for i, what in enumerate(EXPECTED))


def _selection(of: Evidence, reached: pd.DataFrame, untreated: str) -> Hypothesis:
    """Whether sets differ; where one mode was fed along the other's, whether the best token does."""
    if of.forced or of.between is None:
        apart, total = int((reached["overlap_1"] < 1).sum()), len(reached)
        steps = how_many(total, "step")
        told = f"sets were forced; after a parallel set the best token differs in {apart} of {steps}"
    else:
        apart, total = int((of.between["first_difference"] >= 0).sum()), len(of.between)
        told = f"{apart} of {how_many(total, 'pair')} of modes chose different sets"
    if untreated:
        return Hypothesis(SELECTION, "cannot tell", f"{told}, but {untreated}")
    return Hypothesis(SELECTION, "not supported" if apart else "supported", told)


def _series(steps: pd.DataFrame) -> tuple[Series, ...]:
    """Means over prompts at each step."""
    by_step = steps.groupby(["prompt", "step"]).mean(numeric_only=True).groupby("step").mean()
    labels = by_step.index.to_numpy()
    return tuple(
        series(f"{name} by step", unit, "step", labels, by_step[column])
        for column, name, unit in (KINDS[0], KINDS[2], ("overlap_10", "overlap of the top 10", ""))
    )


def _not_measured(of: Evidence) -> tuple[str, ...]:
    pairs = of.between
    parted = pairs[pairs["first_difference"] >= 0] if pairs is not None else pd.DataFrame()
    if not len(parted):
        return ()
    first = int(parted["first_difference"].min())
    return (
        f"{how_many(len(parted), 'pair')} of modes chose different sets, the first at step {first}: from "
        "there on prefixes differ, and the comparison stops (replay: isolated keeps them together)",
    )
