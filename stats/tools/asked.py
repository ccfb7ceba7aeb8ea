"""What the five questions of seeds/002 are answered with: a number over prompts, its interval, a verdict."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...dataset.cube import Cube
from ...dataset.simulated import MODEL as SIMULATED
from .. import closed, effects
from ..questions import between, number, plain

__all__ = [
    *("Asked", "Estimate", "Row", "agreement", "answered"),
    *("judged", "means", "origin", "over", "untestable"),
]

Verdict = Literal["pass", "fail", "not testable"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over n prompts and its 95 % interval, None where one prompt has none.

    cut says at which ends of the possible the interval was cut.
    """

    value: float
    ci: tuple[float, float] | None
    n: int
    cut: str = ""

    def __str__(self) -> str:
        """As a sentence has it."""
        told = ", ".join([between(*self.ci), *[self.cut] * bool(self.cut)]) if self.ci else ""
        return number(self.value) + (f" (95 % CI {told})" if told else "")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question's answer: `reason` says what the verdict rests on, unit what the estimate is of.

    at has the value of each swept axis that was chosen, cut the ends at which the interval was cut.
    """

    question: str
    text: str
    sentence: str
    estimate: float | None
    ci: tuple[float, float] | None
    n: int
    verdict: Verdict
    reason: str
    unit: str = ""
    details: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    cut: str = ""
    at: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        names = (
            *("question", "text", "at", "sentence", "estimate", "unit"),
            *("ci", "cut", "n", "verdict", "reason", "details"),
        )
        return {name: plain(getattr(self, name)) for name in names}


def judged(good: bool) -> Verdict:
    """Pass or fail."""
    return "pass" if good else "fail"


def answered(
    question: str, text: str, sentence: str, found: Estimate, good: bool, reason: str, unit: str, details: Any
) -> Asked:
    """An answer with a number."""
    told = found.value, found.ci, found.n, judged(good), reason, unit, details, found.cut
    return Asked(question, text, sentence, *told)


def origin(cube: Cube) -> str:
    """Where numbers come from that no model run by this program gave; nothing to say of a capture."""
    if told := cube.attrs.get("imported"):
        return f"imported from {told['from']}, where nobody looked at positions or at what the modes did"
    return "simulated: no model was run, its numbers are made up" if cube.facts.id == SIMULATED else ""


def untestable(question: str, text: str, reason: str) -> Asked:
    """No number, and why."""
    return Asked(question, text, f"Not testable: {reason}.", None, None, 0, "not testable", reason)


def means(rows: Iterable[Row], name: str) -> dict[str, float]:
    """The mean of each prompt, over its experiments that have the number."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if name in row and np.isfinite(row[name]):
            found.setdefault(row["prompt"], []).append(float(row[name]))
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def over(rows: Iterable[Row], name: str, least: float = -math.inf, most: float = math.inf) -> Estimate | None:
    """The mean over prompts with its t interval, cut where no value can be; None where no prompt has it."""
    x = np.array(list(means(rows, name).values()))
    if not x.size:
        return None
    if x.size == 1:
        return Estimate(float(x[0]), None, 1)
    found = closed.mean(x)
    ends = max(float(found.low), least), min(float(found.high), most)
    cut = [number(end) for end, was in zip(ends, (found.low, found.high), strict=True) if end != float(was)]
    return Estimate(float(found.estimate), ends, x.size, "cut at " * bool(cut) + " and ".join(cut))


def agreement(rows: Iterable[Row], name: str) -> Estimate | None:
    """The share of prompts in which it holds in every experiment, with Clopper and Pearson's interval."""
    holds = [value == 1 for value in means(rows, name).values()]
    if not holds:
        return None
    low, high = effects.agreement(sum(holds), len(holds))
    return Estimate(sum(holds) / len(holds), (low, high), len(holds))
