"""A cell captured a second time, alone and along the sets it took: how far the two captures differ."""

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
    logprob = _apart(one.get("logits"), two.get("logits"))
    return Difference(_apart(_weights(one), _weights(two)), logprob, _divergence(one, two))


def _weights(data: dict[str, Floats]) -> Floats | None:
    return np.exp(data["log_attention"]) if "log_attention" in data else data.get("attention")


def _apart(one: Floats | None, two: Floats | None) -> float:
    if one is None or two is None:
        return NAN
    if not np.array_equal(np.isnan(one), np.isnan(two)):
        return float("inf")
    return float(np.nanmax(np.abs(one - two), initial=0.0))


def _divergence(one: dict[str, Floats], two: dict[str, Floats]) -> float:
    if "logits" not in one or "logits" not in two:
        return NAN
    p, q = one["logits"].astype(np.float64), two["logits"].astype(np.float64)
    return float((np.exp(p) * (p - q)).sum(axis=1).max(initial=0.0))
