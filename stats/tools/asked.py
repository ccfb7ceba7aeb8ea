"""What the five questions of seeds/002 are answered with: a number over prompts, its interval, a verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .. import closed, effects
from ..questions import between, number, plain

__all__ = ["Asked", "Estimate", "Row", "agreement", "judged", "means", "over", "untestable"]

Verdict = Literal["pass", "fail", "not testable"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over n prompts and its 95 % interval, None where one prompt has none."""

    value: float
    ci: tuple[float, float] | None
    n: int

    def __str__(self) -> str:
        """As a sentence has it."""
        return number(self.value) + (f" (95 % CI {between(*self.ci)})" if self.ci else "")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question's answer: `reason` says what the verdict rests on, unit what the estimate is of."""

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        names = (
            "question",
            "text",
            "sentence",
            "estimate",
            "unit",
            "ci",
            "n",
            "verdict",
            "reason",
            "details",
        )
        return {name: plain(getattr(self, name)) for name in names}


def judged(good: bool) -> Verdict:
    """Pass or fail."""
    return "pass" if good else "fail"


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


def over(rows: Iterable[Row], name: str) -> Estimate | None:
    """The mean over prompts with its t interval; None where no prompt has the number."""
    x = np.array(list(means(rows, name).values()))
    if not x.size:
        return None
    if x.size == 1:
        return Estimate(float(x[0]), None, 1)
    found = closed.mean(x)
    return Estimate(float(found.estimate), (float(found.low), float(found.high)), x.size)


def agreement(rows: Iterable[Row], name: str) -> Estimate | None:
    """The share of prompts in which it holds in every experiment, with Clopper and Pearson's interval."""
    holds = [value == 1 for value in means(rows, name).values()]
    if not holds:
        return None
    low, high = effects.agreement(sum(holds), len(holds))
    return Estimate(sum(holds) / len(holds), (low, high), len(holds))
