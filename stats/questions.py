"""What every answer is made of, and how its sentence says numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from ..words import how_many
from .closed import Mean

__all__ = [
    *("Answer", "beyond", "between", "number", "percent", "plain"),
    *("probability", "ratio", "t_answer", "t_test", "untested", "verb"),
]

Array = npt.NDArray[np.floating[Any]]

DIGITS = (3, 4, 5, 6)  # significant ones, the fewest that say something


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One answer: a sentence with its number, or the reason why there is none.

    n is the number of prompts it rests on; details hold what belongs beside the headline number.
    """

    sentence: str
    method: str = ""
    n: int = 0
    estimate: float | None = None
    ci: tuple[float, float] | None = None
    df: float | tuple[float, float] | None = None
    p: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    not_tested: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as report.json has them."""
        told = {
            name: plain(getattr(self, name))
            for name in ("sentence", "estimate", "ci", "df", "p", "method", "n", "details")
        }
        return told if self.not_tested is None else told | {"not_tested": self.not_tested}


def untested(reason: str, n: int = 0, **details: Any) -> Answer:
    """No answer, no p-value, and why."""
    return Answer(f"Not tested: {reason}.", n=n, details=details, not_tested=reason)


def t_answer(sentence: str, found: Mean, method: str, n: int, **details: Any) -> Answer:
    """An answer from one t-test."""
    return Answer(
        sentence,
        method,
        n,
        float(found.estimate),
        (float(found.low), float(found.high)),
        float(found.df),
        float(found.p),
        {"t": float(found.t), "se": float(found.se), **details},
    )


def number(value: SupportsFloat) -> str:
    """Three significant digits."""
    return f"{float(value):.3g}"


def ratio(value: SupportsFloat) -> str:
    """Three significant digits, zeros and all, more where they would look like 1: 0.510x, 1.0003x."""
    return _unlike_1(float(value), DIGITS[0]) + "x"


def beyond(effect: SupportsFloat) -> str:
    """Effects at least this large on the log scale, either way: 0.633x or less, or 1.58x or more."""
    return f"{ratio(math.exp(-float(effect)))} or less, or {ratio(math.exp(float(effect)))} or more"


def percent(share: SupportsFloat) -> str:
    """A share in words: 10 %."""
    return f"{100 * float(share):.0f} %"


def between(low: SupportsFloat, high: SupportsFloat) -> str:
    """An interval in words, with digits enough to tell its ends apart: 0.510 to 0.750."""
    texts = [(_unlike_1(float(low), count), _unlike_1(float(high), count)) for count in DIGITS]
    return " to ".join(next((ends for ends in texts if ends[0] != ends[1]), texts[0]))


def _unlike_1(x: float, least: int) -> str:
    """At least so many significant digits, and more where the number would look like 1 without being it."""
    texts = [_digits(x, count) for count in DIGITS if count >= least]
    return next((text for text in texts if float(text) != 1), texts[0])


def _digits(x: float, count: int) -> str:
    """So many significant digits, zeros and all."""
    return "0" if x == 0 else f"{x:#.{count}g}".rstrip(".")


def probability(value: SupportsFloat) -> str:
    """A p as one writes it."""
    p = float(value)
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def t_test(found: Mean, n: int) -> str:
    """A t-test over prompts in words: t(9) = 2.31, p = 0.046, 10 prompts."""
    return f"t({number(found.df)}) = {number(found.t)}, {probability(found.p)}, {how_many(n, 'prompt')}"


def verb(count: int, one: str, many: str) -> str:
    """The verb that goes with so many."""
    return one if count == 1 else many


def plain(value: Any) -> Any:
    """Values that JSON has: NaN and infinities are None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None
