"""What an experiment comes to: rows of measures, hypotheses with a verdict, and the outcome in a sentence."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import closed
from ..questions import between, number, plain

__all__ = [
    *("SIZE", "Experiment", "Hypothesis", "Measure", "Series"),
    *("count", "cut", "largest", "over_prompts", "series"),
]

Verdict = Literal["supported", "not supported", "cannot tell", "confirmed", "refuted"]  # two of claims


SHARE, SIZE = (0.0, 1.0), (0.0, math.inf)
LIMITS = {  # of columns, by how their names begin
    **dict.fromkeys(("overlap_", "mass_", "attention_mean_difference", "top_probability"), SHARE),
    **dict.fromkeys(("mean", "prior", "sink", "in_prompt", "generated", "matched"), SHARE),
    **dict.fromkeys(("kl", "entropy", "per_", "variance", "ratio"), SIZE),
    **dict.fromkeys(("cosine", "attention_correlation"), (-1.0, 1.0)),
    "js": (0.0, math.log(2)),
    "width": (1.0, math.inf),
}


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: what was measured, as text and as a number; n prompts stand behind it and its interval."""

    name: str
    text: str
    number: float | None = None
    unit: str = ""
    ci: tuple[float, float] | None = None
    n: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One number a layer, or a step; None where nothing was measured."""

    name: str
    unit: str
    over: str
    labels: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was expected, whether the numbers speak for it, and which."""

    hypothesis: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """One of the five experiments, as a cube answers it; `listing` are lines to read as they stand."""

    name: str
    title: str
    question: str
    measures: tuple[Measure, ...]
    hypotheses: tuple[Hypothesis, ...]
    outcome: str
    not_measured: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    listing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as report.json has them."""
        told: dict[str, Any] = plain(asdict(self))
        return told


def over_prompts(name: str, frame: pd.DataFrame, column: str, unit: str = "", note: str = "") -> Measure:
    """The mean of prompt means, and its 95 % interval where prompts scatter."""
    values = frame[column].astype(float)
    means = values[np.isfinite(values)].groupby(frame["prompt"].astype(str)).mean().to_numpy()
    if not means.size:
        return Measure(name, "not measured", unit=unit, note=note)
    mean = float(means.mean())
    if means.size < 2 or not means.std(ddof=1) > 0:
        return Measure(name, _with_unit(mean, unit), mean, unit, None, means.size, note)
    found = closed.mean(means)
    ends = float(found.low), float(found.high)
    limits = possible(column)
    text = f"{_with_unit(mean, unit)} (95 % CI {cut(*ends, limits)})"
    low, high = (float(np.clip(end, *limits)) for end in ends)
    return Measure(name, text, mean, unit, (low, high), means.size, note)


def cut(low: float, high: float, limits: tuple[float, float]) -> str:
    """An interval in words, cut where no value can lie; which end was cut is said."""
    least, most = limits
    ends = [number(end) for end, over in ((least, low < least), (most, high > most)) if over]
    told = between(max(low, least), min(high, most))
    return f"{told}, cut at {' and at '.join(ends)}" if ends else told


def possible(column: str) -> tuple[float, float]:
    """Between which values any mean of a column must lie."""
    named = (limits for begin, limits in LIMITS.items() if column.startswith(begin))
    return next(named, (-math.inf, math.inf))


def largest(name: str, frame: pd.DataFrame, column: str, unit: str = "", note: str = "") -> Measure:
    """The largest value of all experiments: no mean, so no interval."""
    values = frame[column].astype(float)
    here = values[np.isfinite(values)]
    if not len(here):
        return Measure(name, "not measured", unit=unit, note=note)
    prompts = frame.loc[here.index, "prompt"].nunique()
    return Measure(name, _with_unit(here.max(), unit), float(here.max()), unit, None, prompts, note)


def count(name: str, some: int, of: int, what: str, note: str = "") -> Measure:
    """So many of so many; nothing of none."""
    if not of:
        return Measure(name, "not measured", unit=what, note=note)
    return Measure(name, f"{some:,} of {of:,} {what}", float(some), what, note=note)


def series(name: str, unit: str, over: str, labels: npt.ArrayLike, values: npt.ArrayLike) -> Series:
    """A series with None for what is not finite."""
    numbers = np.asarray(values, dtype=np.float64).tolist()
    told = tuple(value if math.isfinite(value) else None for value in numbers)
    return Series(name, unit, over, tuple(np.asarray(labels, dtype=int).tolist()), told)


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".rstrip()
