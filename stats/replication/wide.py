"""Experiment 5: very wide sets. Do the modes still agree, what does it cost, and do the numbers hold?"""

import math

import numpy as np
import pandas as pd

from ...words import how_many, in_bytes
from .. import closed
from ..questions import between, number
from ..study import PAIR
from ..tools.stored import logprobs
from .evidence import NOT_BOTH, Evidence
from .patterns import verdict
from .result import Experiment, Hypothesis, Measure, count, largest, over_prompts

__all__ = ["ENOUGH", "experiment"]

ENOUGH = 10  # tokens in a set, as the seeds asked
REPEATS = 5
POINTS = 3  # experiments of a prompt that a slope needs
TITLE = "High parallelism"
QUESTION = "With ten or more tokens a step: do the modes agree, what does it cost, are the numbers stable?"
REACHED = f"A set of {ENOUGH} or more tokens is reached."
AGREE = "The modes still give identical results."
STABLE = "The numbers stay stable: nothing is NaN or infinite."
SLOWER = "Isolated mode takes longer."
MEMORY = "Isolated mode takes more memory."


def experiment(of: Evidence) -> Experiment:
    """Its measures, hypotheses and outcome."""
    frame = of.frame.assign(
        per_step=of.frame["seconds"] / of.frame["sets"],
        per_token=of.frame["seconds"] / (of.frame["width"] * of.frame["sets"]),
    )
    hypotheses = (_reached(of), _agree(of), _stable(of), _slower(of, frame), _memory(of))
    return Experiment(
        "exp5",
        TITLE,
        QUESTION,
        (*_widths(of), *_numbers(of), *_cost(of, frame)),
        hypotheses,
        _outcome(of, hypotheses),
        tuple(
            f"{each.hypothesis.rstrip('.')}: {each.reason}"
            for each in hypotheses
            if each.verdict == "cannot tell"
        ),
    )


def _widths(of: Evidence) -> list[Measure]:
    frame = of.frame
    rows = [largest(f"widest set, {mode}", of.of_mode(mode), "widest", "tokens") for mode in _modes(of)]
    rows.append(over_prompts("mean width", frame, "width", "tokens"))
    capped = int(frame["capped"].sum())
    rows.append(count("sets cut by max_width", capped, int(frame["sets"].sum()), "sets"))
    return rows


def _numbers(of: Evidence) -> list[Measure]:
    """What could go wrong with numbers: gaps, and extremes of the readouts."""
    check = of.checks["finite"]
    rows = [
        count(
            "treatment check finite",
            check["pass"],
            check["pass"] + check["fail"],
            "experiments",
            "no NaN, no inf",
        )
    ]
    if "logits" not in of.subjects.cube.data:
        return rows
    gaps, low, high = 0, math.inf, -math.inf
    for view in of.views():
        logs = logprobs(view, view.steps)
        if logs is not None and logs.size:
            gaps += int((~np.isfinite(logs)).sum())
            low, high = min(low, float(np.nanmin(logs))), max(high, float(np.nanmax(logs)))
    note = "readouts are kept as log-probabilities: logits up to a constant a step"
    return [
        *rows,
        Measure("NaN or infinite values among the readouts", str(gaps), float(gaps), "values"),
        Measure("smallest log-probability", f"{number(low)} nat", low, "nat", note=note),
        Measure("largest log-probability", f"{number(high)} nat", high, "nat", note=note),
    ]


def _cost(of: Evidence, frame: pd.DataFrame) -> list[Measure]:
    alone = _alone(of)
    note = (
        "each ran alone" if alone else "a share of its batch's time, by tokens: not a measurement of its own"
    )
    rows = []
    for mode in _modes(of):
        own = frame[frame["mode"] == mode]
        rows += [over_prompts(f"{what}, {mode}", own, column, "s", note) for column, what in COSTS]
    rows += _against_width(frame, note)
    peaks = [
        row["peak_bytes"] for record in of.runs for row in record.get("workers", ()) if row.get("peak_bytes")
    ]
    if peaks:
        most = float(max(peaks))
        rows.append(
            Measure("largest memory of a worker", in_bytes(most), most, "bytes", note="of all modes together")
        )
    return rows


COSTS = (("per_step", "seconds a step"), ("per_token", "seconds a token"))


def _against_width(frame: pd.DataFrame, note: str) -> list[Measure]:
    """How seconds a step grow with the width of the sets: a slope of each prompt's experiments."""
    slopes = [
        {"prompt": prompt, "slope": np.polyfit(own["width"], own["per_step"], 1)[0]}
        for prompt, own in frame.dropna(subset=["width", "per_step"]).groupby("prompt")
        if len(own) >= POINTS and np.ptp(own["width"]) > 0
    ]
    unit = "s a step for each token of width"
    table = pd.DataFrame(slopes)
    return [over_prompts("seconds a step against width", table, "slope", unit, note)] if slopes else []


def _modes(of: Evidence) -> list[str]:
    return list(dict.fromkeys(of.frame["mode"]))


def _alone(of: Evidence) -> bool:
    """Whether every experiment had its passes to itself."""
    sizes = [record.get("options", {}).get("batch_size") for record in of.runs]
    return bool(sizes) and all(size == 1 for size in sizes)


def _reached(of: Evidence) -> Hypothesis:
    widest = {mode: int(of.of_mode(mode)["widest"].max()) for mode in _modes(of)}
    told = ", ".join(f"{mode} {width}" for mode, width in widest.items())
    held = max(widest.values()) >= ENOUGH
    return Hypothesis(
        REACHED,
        "supported" if held else "not supported",
        f"{'' if held else 'not reached: '}the widest sets are {told}",
    )


def _agree(of: Evidence) -> Hypothesis:
    if of.between is None or not len(of.between):
        return Hypothesis(AGREE, "cannot tell", NOT_BOTH)
    parted = int((of.between["first_difference"] >= 0).sum())
    sets = f"{parted} of {how_many(len(of.between), 'pair')} of modes chose different sets"
    if not np.isfinite(of.between["attention_difference"]).any():
        return Hypothesis(AGREE, "not supported" if parted else "cannot tell", sets)
    word, reason = verdict(of, of.between)
    if why := of.without_treatment():
        return Hypothesis(AGREE, "cannot tell", f"{word} ({reason}), but {why}")
    held = word == "identical" and not parted
    return Hypothesis(
        AGREE, "supported" if held else "not supported", f"{sets}; attention: {word} ({reason})"
    )


def _stable(of: Evidence) -> Hypothesis:
    check = of.checks["finite"]
    if not check["pass"] + check["fail"]:
        return Hypothesis(STABLE, "cannot tell", "the check was not made of any experiment")
    told = f"the check held in {check['pass']} experiments and failed in {check['fail']}"
    return Hypothesis(STABLE, "not supported" if check["fail"] else "supported", told)


def _slower(of: Evidence, frame: pd.DataFrame) -> Hypothesis:
    """By the time of a token, since the modes choose sets of their own; paired by prompt."""
    if not set(PAIR) <= set(frame["mode"]):
        return Hypothesis(SLOWER, "cannot tell", NOT_BOTH)
    if not _alone(of):
        why = "experiments shared their passes, and their times are shares of it: capture with --batch-size 1"
        return Hypothesis(SLOWER, "cannot tell", why)
    times = frame.pivot_table(index="prompt", columns="mode", values="per_token", aggfunc="mean")
    gaps = (times["isolated"] - times["visible"]).dropna().to_numpy(dtype=np.float64)
    if gaps.size < REPEATS:
        return Hypothesis(
            SLOWER, "cannot tell", f"{how_many(gaps.size, 'prompt')} ran in both modes, {REPEATS} are needed"
        )
    found = closed.mean(gaps)
    low, high = float(found.low), float(found.high)
    apart = f"isolated - visible is {number(found.estimate)} s a token"
    told = f"{apart} (95 % CI {between(low, high)}, {gaps.size} prompts)"
    return Hypothesis(
        SLOWER, "supported" if low > 0 else "not supported" if high < 0 else "cannot tell", told
    )


def _memory(of: Evidence) -> Hypothesis:
    if len(_modes(of)) > 1:
        return Hypothesis(
            MEMORY, "cannot tell", "both modes ran in the same workers: capture one mode a cube to compare"
        )
    return Hypothesis(MEMORY, "cannot tell", "one mode only is in this cube: nothing to compare")


def _outcome(of: Evidence, hypotheses: tuple[Hypothesis, ...]) -> str:
    reached, agree, stable = (each.reason for each in hypotheses[:3])
    return f"{reached[0].upper()}{reached[1:]}. Modes: {agree}. Numbers: {stable}."
