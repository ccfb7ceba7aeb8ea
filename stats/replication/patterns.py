"""Experiment 1: attention in isolated and in visible mode, entry by entry."""

import math

import numpy as np
import pandas as pd

from ...words import how_many
from ..effects import ALPHA
from ..questions import number
from .evidence import NOT_BOTH, Evidence
from .result import Experiment, Hypothesis, Measure, Series, count, largest, over_prompts, series

__all__ = ["experiment", "verdict"]

BOUND = 0.01  # of a row's attention
TITLE = "Attention of isolated and of visible mode"
QUESTION = "Does it change the attention pattern whether parallel tokens see each other?"
IDENTICAL, EQUIVALENT, DIFFER, UNKNOWN = "identical", "equivalent within 0.01", "differ", "cannot tell"
WEIGHT = "of a row"


def experiment(of: Evidence) -> Experiment:
    """Its measures, hypotheses and outcome."""
    pairs = of.between
    if pairs is None or not len(pairs):
        return Experiment(
            "exp1", TITLE, QUESTION, (), _unknown(NOT_BOTH), _outcome(UNKNOWN, NOT_BOTH), (NOT_BOTH,)
        )
    if not np.isfinite(pairs["attention_difference"]).any():
        why = _why_not(of, pairs)
        return Experiment("exp1", TITLE, QUESTION, (), _unknown(why), _outcome(UNKNOWN, why), (why,))
    word, reason = verdict(of, pairs)
    return Experiment(
        "exp1",
        TITLE,
        QUESTION,
        tuple(_measures(of, pairs)),
        (_same(of, word, reason), _acts(of, pairs), _over_prompts(of)),
        _outcome(word, reason, of.without_treatment()),
        tuple(_not_measured(of, pairs)),
        _series(of),
    )


def verdict(of: Evidence, pairs: pd.DataFrame) -> tuple[str, str]:
    """Identical, equivalent within the bound, or different; and the number that says so."""
    most = float(np.nanmax(pairs["attention_difference"]))
    told = f"largest difference of a weight that both modes have: {number(most)} {WEIGHT}"
    if pairs["identical"].all():
        return IDENTICAL, "no weight differs by more than storing it does"
    return (EQUIVALENT if most <= BOUND else DIFFER), told


def _why_not(of: Evidence, pairs: pd.DataFrame) -> str:
    if of.subjects.attention is None:
        return "no attention captured: set capture.attention in the grid"
    if (pairs["first_difference"] < 0).any():
        return "attention has gaps: NaN where tokens were seen"
    return "the modes part before they have a row in common (replay: isolated keeps them together)"


def _measures(of: Evidence, pairs: pd.DataFrame) -> list[Measure]:
    both = "over weights that both modes have"
    checks = of.checks
    rows = [
        over_prompts("mean absolute difference", pairs, "attention_mean_difference", WEIGHT, both),
        largest("largest absolute difference", pairs, "attention_difference", WEIGHT, both),
        over_prompts("correlation of the two patterns", pairs, "attention_correlation", "", both),
        largest(
            "largest weight on a sibling that isolated hides", pairs, "apart_most", WEIGHT, "treatment check"
        ),
        count("pairs with identical attention", int(pairs["identical"].sum()), len(pairs), "pairs of modes"),
    ]
    for name, what in (("isolation", "hidden pairs are exactly 0"), ("sight", "siblings are seen")):
        held, tried = checks[name]["pass"], checks[name]["pass"] + checks[name]["fail"]
        rows.append(count(f"treatment check {name}", held, tried, "experiments", what))
    return rows


def _series(of: Evidence) -> tuple[Series, ...]:
    """The largest difference of each layer and of each step, over all pairs."""
    found = of.differences()
    told = []
    for end in ("layer", "step"):
        values = found[f"by_{end}"]
        most = values.max([dim for dim in values.dims if dim != end]).to_numpy()
        told.append(series(f"largest difference by {end}", WEIGHT, end, values[end].to_numpy(), most))
    return tuple(told)


def _same(of: Evidence, word: str, reason: str) -> Hypothesis:
    what = "Isolated and visible mode give the same attention pattern."
    if why := of.without_treatment():
        return Hypothesis(what, "cannot tell", f"{word} ({reason}), but {why}")
    return Hypothesis(what, "not supported" if word == DIFFER else "supported", f"{word}: {reason}")


def _acts(of: Evidence, pairs: pd.DataFrame) -> Hypothesis:
    what = "The treatment acts: in visible mode siblings receive attention that isolated mode hides."
    if why := of.untreated():
        return Hypothesis(what, "not supported", why)
    if why := of.unseen():
        return Hypothesis(what, "cannot tell", why)
    most = float(np.nanmax(pairs["apart_most"])) if np.isfinite(pairs["apart_most"]).any() else math.nan
    if math.isnan(most):
        return Hypothesis(what, "cannot tell", "no captured row has a sibling that one of the modes hides")
    told = f"in one layer and head, a token gives up to {number(most)} of its attention (1 is all of it) to "
    return Hypothesis(what, "supported", f"{told}a sibling that isolated mode hides")


def _over_prompts(of: Evidence) -> Hypothesis:
    what = "Over prompts, visible mode changes the attention of parallel over single tokens."
    found = of.answer("modes")
    if found.not_tested is not None or found.p is None:
        return Hypothesis(what, "cannot tell", f"not tested: {found.not_tested}")
    if found.details.get("p_holm", found.p) < ALPHA:
        return Hypothesis(what, "supported", found.sentence)
    return Hypothesis(what, "not supported" if found.details["equivalent"] else "cannot tell", found.sentence)


def _unknown(why: str) -> tuple[Hypothesis, ...]:
    return (Hypothesis("Isolated and visible mode give the same attention pattern.", "cannot tell", why),)


def _outcome(word: str, reason: str, untreated: str = "") -> str:
    but = f"; but {untreated}, so this says nothing of visibility" if untreated else ""
    if word == UNKNOWN:
        return f"Whether isolated and visible attention differ cannot be told: {reason}."
    return f"Isolated and visible attention {'' if word == DIFFER else 'are '}{word}: {reason}{but}."


def _not_measured(of: Evidence, pairs: pd.DataFrame) -> list[str]:
    told = []
    sets = of.frame.groupby(["prompt", "seed"])["sets"].min()
    if (pairs["first_difference"] >= 0).any():
        parted = int((pairs["first_difference"] >= 0).sum())
        first = int(pairs.loc[pairs["first_difference"] >= 0, "first_difference"].min())
        told.append(
            f"{parted} of {how_many(len(pairs), 'pair')} of modes chose different sets, the first at step "
            f"{first} of {int(sets.max())}: attention is compared before that only (replay: isolated "
            "compares all)"
        )
    if of.subjects.cube.attrs["captured_queries"] == "last":
        told.append("only the best token's row of each set was captured (queries: last)")
    return told
