"""A cell captured a second time, alone and along the sets it took: how far the two captures differ."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dataset.schema import CHECKS
from .rows import Kept

Floats = npt.NDArray[np.float32]
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest differences of attention weights and log-probabilities, and the largest KL of a readout.

    NaN where the variable was not captured.
    """

    attention: float
    logprob: float
    kl: float

    def values(self, kind: str, check_value: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """A cell's `check_value` with the differences of this kind, cross or repeat, filled in."""
        filled = np.array(check_value, np.float64)
        for name, value in (("attention", self.attention), ("logprob", self.logprob), ("kl", self.kl)):
            filled[CHECKS.index(f"{kind}_{name}")] = value
        return filled


def difference(first: Kept, second: Kept) -> Difference:
    """Between two captures along the same sets; other sets are no second capture."""
    for name in ("token", "slot_step", "pruned_at"):
        if not np.array_equal(first.small[name], second.small[name]):
            raise ValueError(f"the second capture took another path: {name} differs")
    one, two = first.data, second.data
    logits = one.get("logits"), two.get("logits")
    return Difference(apart(_weights(one), _weights(two)), apart(*logits), divergence(*logits))


def _weights(data: dict[str, Floats]) -> Floats | None:
    return np.exp(data["log_attention"]) if "log_attention" in data else data.get("attention")


def apart(one: Floats | None, two: Floats | None) -> float:
    """The largest difference; infinite where other entries are there, NaN where nothing was captured."""
    if one is None or two is None:
        return NAN
    if not np.array_equal(np.isnan(one), np.isnan(two)):
        return float("inf")
    with np.errstate(invalid="ignore"):  # an infinity that is in both is no difference
        return float(np.nanmax(np.where(one == two, 0, np.abs(one - two)), initial=0.0))


def divergence(one: Floats | None, two: Floats | None) -> float:
    """The largest KL of a step, from (step, vocab) log-probabilities; NaN where there are none."""
    if one is None or two is None:
        return NAN
    p, q = one.astype(np.float64), two.astype(np.float64)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
    return float(terms.sum(axis=-1).max(initial=0.0))


def larger(one: float, two: float) -> float:
    """The larger of two; NaN counts for nothing."""
    return two if math.isnan(one) or two > one else one
