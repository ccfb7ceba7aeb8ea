"""What a control cube shows: cubes whose truth is known, so that they test the checks and the measures."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..dataset.encoding import SCALE
from ..words import how_many
from .questions import number, ratio
from .study import Study

__all__ = ["shown"]

ROUNDING = 1 / SCALE["attention"]  # of a stored log: equal weights may be one code apart
FLOORS = {"attention": "of a weight", "logprob": "nat of a log-probability", "kl": "nat of KL"}
MASKS = ("isolation",)  # checks that see a mask which is not applied


def shown(study: Study) -> Mapping[str, Any] | None:
    """{control, sentence, seen, numbers} of a control cube; seen is None where it shows nothing."""
    control = study.frame.attrs.get("control")
    if not control:
        return None
    asked = {"clone": _clone, "repeat": _repeat, "no_mask": _no_mask}
    if control not in asked:
        return _told(str(control), "nothing is known of this control", None)
    return asked[control](study.frame)


def _told(control: str, said: str, seen: bool | None, **numbers: Any) -> dict[str, Any]:
    return {"control": control, "sentence": f"Control {control}: {said}.", "seen": seen, "numbers": numbers}


def _clone(frame: pd.DataFrame) -> Mapping[str, Any]:
    """Siblings with one token id: in isolated mode nothing tells them apart but their slot."""
    if "sibling_spread" not in frame.columns:
        return _told("clone", "the frame has no column 'sibling_spread', so siblings were not compared", None)
    rows = frame.dropna(subset=["sibling_spread"])
    most = rows.groupby("mode")["sibling_spread"].max().to_dict()
    times = _cross(frame)
    numbers = {"sibling_spread": most, "rounding": ROUNDING, "cross_parallel": times}
    if "isolated" not in most:
        return _told("clone", "no isolated experiment has a later token that sees siblings", None, **numbers)
    found, n = most["isolated"], how_many(int((rows["mode"] == "isolated").sum()), "isolated experiment")
    alike = bool(found <= ROUNDING)
    verdict = (
        "siblings with the same token are treated alike"
        if alike
        else "siblings with the same token are NOT treated alike: the measures or the mask are broken"
    )
    said = (
        f"{verdict}; their log attention differs by at most {number(found)} in {n} "
        f"(truth 0, storage rounds to {number(ROUNDING)})"
    )
    if times is not None:
        said += f"; in visible mode a sibling receives {ratio(times)} the attention of a context key"
    return _told("clone", said, alike, **numbers)


def _cross(frame: pd.DataFrame) -> float | None:
    """Attention among siblings in visible mode, as a ratio."""
    if "cross_parallel" not in frame.columns:
        return None
    x = frame.loc[frame["mode"] == "visible"].groupby("prompt")["cross_parallel"].mean().dropna()
    return math.exp(float(x.mean())) if len(x) else None


def _repeat(frame: pd.DataFrame) -> Mapping[str, Any]:
    """How far two captures of the same experiment are apart."""
    floor: Mapping[str, Any] = frame.attrs.get("noise_floor") or {}
    there = {name: floor[name] for name in FLOORS if floor.get(name) is not None}
    if not there:
        return _told("repeat", "no difference between two captures is stored", None)
    apart = ", ".join(f"{number(value)} {FLOORS[name]}" for name, value in there.items())
    cells = int(floor.get("cells", 0))
    said = (
        f"two captures of the same experiment differ by at most {apart}, in {how_many(cells, 'experiment')}"
    )
    return _told("repeat", said, bool(np.isfinite(list(there.values())).all()), **there, cells=cells)


def _no_mask(frame: pd.DataFrame) -> Mapping[str, Any]:
    """A mask that is declared and not applied, which the treatment checks must see."""
    told: Mapping[str, Mapping[str, int]] = frame.attrs.get("checks") or {}
    red = {name: int(count["fail"]) for name, count in told.items() if count.get("fail", 0)}
    masks = [told.get(name, {}) for name in MASKS]
    failed, held = (sum(int(count.get(key, 0)) for count in masks) for key in ("fail", "pass"))
    numbers = {"red": red, "applies_to": failed + held}
    if not failed + held:
        return _told("no_mask", "no experiment hides anything, so there was nothing to see", None, **numbers)
    if not failed:
        return _told("no_mask", "the missing mask is NOT seen: the checks are broken", False, **numbers)
    cells = ", ".join(f"{name} is red in {how_many(count, 'experiment')}" for name, count in red.items())
    said = f"the mask was not applied, and the checks see it: {cells} of {failed + held} that hide a token"
    return _told("no_mask", said, True, **numbers)
