"""Experiment 2: next-token distributions of the two modes, step by step while they stand on one prefix."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from ...words import how_many
from .. import closed
from ..questions import number
from ..questions_modes import KL_BOUND, per_prompt
from ..scenario import SAME_TOKENS
from ..tools import compare
from ..view import View
from .evidence import NOT_BOTH, Evidence
from .result import (
    SIZE,
    Experiment,
    Hypothesis,
    Measure,
    Series,
    Verdict,
    count,
    cut,
    largest,
    over_prompts,
    series,
)

__all__ = ["experiment", "outcome"]

SAME_KL = 1e-6  # nat: below it in every step, nothing differs, unless a noise floor was measured
SELECTION = "The mode does not change which tokens are selected."
TITLE = "Next-token distributions of isolated and of visible mode"
QUESTION = "Are the distributions identical, or only the most probable tokens?"
EXPECTED = (
    f"The distributions are the same, to {KL_BOUND} nat of KL on average.",
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
    left, reason = outcome(of, steps)
    untreated = of.without_treatment()
    said = f"{EXPECTED[left[0]]} {reason}." if len(left) == 1 else f"Cannot tell: {reason}."
    if untreated:
        said = f"{reason}. But {untreated}, so this says nothing of visibility."
    return Experiment(
        "exp2",
        TITLE,
        QUESTION,
        tuple(_measures(of, steps, reached)),
        (*_hypotheses(left, reason, untreated), _selection(of, reached, untreated)),
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


def outcome(of: Evidence, steps: pd.DataFrame) -> tuple[tuple[int, ...], str]:
    """Which of the three expected outcomes are left, by the numbers of the answer and the scenario."""
    floor = of.frame.attrs.get("noise_floor", {}).get("kl") or 0.0
    bar, most = max(SAME_KL, floor), float(steps["kl"].max())
    told, found = f"The largest KL divergence is {number(most)} nat", of.answer("logits")
    if steps["prompt"].nunique() < 2:
        return (0, 1, 2), f"{told}, of one prompt: nothing can be said about prompts in general"
    if most <= bar:
        return (0,), f"{told}, and up to {number(bar)} nat counts as none"
    if found.not_tested is not None:
        return (0, 1, 2), f"{told}; not tested: {found.not_tested}"
    bound, lower, upper = (float(found.details[name]) for name in ("bound", "lower", "upper"))
    if upper < bound:
        return (0,), _bare(found.sentence)
    left, tokens = _by_tokens(of)
    return left if lower > bound else (0, *left), f"{_bare(found.sentence)}; {tokens}"


def _bare(sentence: str) -> str:
    return sentence.rstrip(".")


def _by_tokens(of: Evidence) -> tuple[tuple[int, ...], str]:
    """Which outcomes the overlap of the ten best tokens leaves, over prompts and steps as in the scenario."""
    means = _overlaps(of)
    if means.size < 2:
        return (1, 2), "the most probable tokens of fewer than two prompts can be compared"
    made = closed.tost(means, 1.0)
    low, high = float(made.low), float(made.high)
    ends = f"90 % CI {cut(low, high, (0.0, 1.0))}, {means.size} prompts"
    told = (
        f"the ten best tokens overlap by {number(means.mean())} over the same steps ({ends}), where "
        f"{number(SAME_TOKENS)} is one in ten exchanged"
    )
    return (1,) if low >= SAME_TOKENS else (2,) if high < SAME_TOKENS else (1, 2), told


def _overlaps(of: Evidence) -> npt.NDArray[np.float64]:
    found = np.empty(0) if of.between is None else per_prompt(of.study, of.between, "jaccard_10")
    return np.asarray(found, dtype=np.float64)


def _answered(of: Evidence) -> list[Measure]:
    """What the hypotheses rest on: the numbers of the answer `logits` and of the scenario."""
    found = of.answer("logits")
    if found.not_tested is not None or found.ci is None or found.estimate is None:
        return []
    every = "every step compared, those before the first parallel set too; as the answer and the scenario"
    text = f"{number(found.estimate)} nat (95 % CI {cut(*found.ci, SIZE)})"
    ends = max(0.0, found.ci[0]), found.ci[1]
    means = _overlaps(of)
    table = pd.DataFrame({"prompt": np.arange(means.size), "overlap_10": means})
    return [
        Measure("KL that the verdict rests on", text, found.estimate, "nat", ends, found.n, every),
        over_prompts("top-10 overlap that the verdict rests on", table, "overlap_10", "", every),
    ]


def _first_wide(view: View) -> float:
    """The first step with a set of two or more: up to it all modes read out the same by construction."""
    return float(view.wide_steps[0]) if view.wide_steps else float("inf")


def _nothing(why: str) -> Experiment:
    unknown = tuple(Hypothesis(what, "cannot tell", why) for what in (*EXPECTED, SELECTION))
    return Experiment("exp2", TITLE, QUESTION, (), unknown, f"Cannot tell: {why}.", (why,))


def _measures(of: Evidence, steps: pd.DataFrame, reached: pd.DataFrame) -> list[Measure]:
    after = "mean over the steps after the first parallel set, up to the first set that differs"
    rows = [
        *_answered(of),
        *(over_prompts(name, reached, column, unit, after) for column, name, unit in KINDS),
    ]
    rows.append(largest("largest KL(isolated || visible)", steps, "kl", "nat"))
    every = "mean over all steps compared: those up to the first parallel set are the same by construction"
    rows.append(over_prompts("KL(isolated || visible), all steps", steps, "kl", "nat", every))
    for k in compare.TOPS:
        note = f"{after}; Jaccard overlap of the {k} most probable tokens; {TIES}"
        rows.append(over_prompts(f"overlap of the top {k}", reached, f"overlap_{k}", "", note))
    total = int(of.frame[of.frame["mode"] == "isolated"]["sets"].sum())
    rows.append(count("steps compared", len(steps), total, "steps of isolated mode"))
    rows.append(count("steps after the first parallel set", len(reached), len(steps), "steps compared"))
    return rows


def _hypotheses(left: tuple[int, ...], reason: str, untreated: str) -> tuple[Hypothesis, ...]:
    def verdict(number_of: int) -> Verdict:
        if number_of not in left and not untreated:
            return "not supported"
        return "supported" if left == (number_of,) and not untreated else "cannot tell"

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
    if reached["prompt"].nunique() < 2:
        return Hypothesis(SELECTION, "cannot tell", f"{told}, of one prompt")
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
