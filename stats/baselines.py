"""What stands beside the down-weighting as its controls: placebo labels, mode `single`, the legacy ratio."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..words import how_many
from . import closed
from .questions import between, ratio
from .study import Study, on_prompts, settled

__all__ = ["beside", "interval"]

Array = npt.NDArray[np.floating[Any]]

PLACEBO = ("placebo_low", "placebo_high")
LEGACY = "legacy: the formula of earlier code; a sink alone gives 0.35"
PER_SET = "another estimand: the attention of a whole set, summed over siblings, over that of a single token"


def beside(study: Study) -> dict[str, Any]:
    """Controls and other estimands by name; only what the frame has columns for."""
    named = {"downweighting_per_set": PER_SET, "legacy_ratio": LEGACY}
    told = {name: _labelled(study, name, label) for name, label in named.items()}
    found: dict[str, Any] = told | {"placebo": _placebo(study), "single_baseline": _single(study)}
    return {name: each for name, each in found.items() if each is not None}


def interval(found: closed.Mean) -> dict[str, float]:
    """A mean and its 95 % interval."""
    names = ("estimate", "low", "high", "df")
    return {name: float(getattr(found, name)) for name in names}


def _labelled(study: Study, column: str, label: str) -> dict[str, Any] | None:
    if column == study.response:
        return None
    x = on_prompts(study, column)
    return {"label": label, "n": len(x), **interval(closed.mean(x))} if len(x) > 1 else None


def _placebo(study: Study) -> Mapping[str, Any] | None:
    """In how many prompts the down-weighting is none that sets called parallel at random would give."""
    if study.response != "downweighting" or not set(PLACEBO) <= set(study.frame.columns):
        return None
    low, high = (settled(study.table(name)) for name in PLACEBO)
    there = np.isfinite(low) & np.isfinite(high) & np.isfinite(study.means)
    n = int(there.sum())
    if not n:
        return None
    x, low, high = study.means[there], low[there], high[there]
    below, above = int(np.sum(x < low)), int(np.sum(x > high))
    return {
        "label": "control: placebo labels",
        "n": n,
        "outside": below + above,
        "below": below,
        "above": above,
        "low": float(low.mean()),
        "high": float(high.mean()),
        "sentence": (
            f"In {below + above} of {how_many(n, 'prompt')} it lies outside the 95 % range that sets called "
            f"parallel at random give ({below} below, {above} above; the mean range is "
            f"{between(math.exp(low.mean()), math.exp(high.mean()))}x)."
        ),
    }


def _single(study: Study) -> Mapping[str, Any] | None:
    """Parallel tokens against the one token that mode `single` has at the same place."""
    x = on_prompts(study, "single_baseline")
    if len(x) < 2:
        return None
    found = interval(closed.mean(x))
    times, low, high = (math.exp(found[name]) for name in ("estimate", "low", "high"))
    return {
        "label": "control: mode single, within prompt and seed",
        "n": len(x),
        **found,
        "ratio": times,
        "ratio_ci": [low, high],
        "sentence": (
            f"Control: a parallel token receives {ratio(times)} the attention of the one token at its place "
            f"in mode single (95 % CI {between(low, high)}, {how_many(len(x), 'prompt')})."
        ),
    }
