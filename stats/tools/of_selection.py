"""Q4 and Q5 of seeds/002: why are tokens pruned, and what does a changing threshold do?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...dataset.options import Curve, threshold_at
from ...words import how_many
from ..questions import number
from ..view import View
from .asked import Asked, Estimate, Row, over, untestable
from .asked import judged as judged_as
from .pruning import pruning, rule

__all__ = ["correlation", "curve_of", "dynamic", "prunings", "why_pruned"]

Q4 = "Why are certain tokens pruned?"
Q5 = "How does the dynamic threshold affect generation?"

SAME = 1e-9  # thresholds closer than that are the same: they are stored as float64
NEAR_1 = 1 - 1e-9  # of a correlation, beyond which Fisher's z has no end
ROUNDING = 1e-4  # of a stored score, relative: it is float32


def prunings(view: View) -> Row:
    """What q4 needs of an experiment."""
    asked = rule(view)
    row: Row = {"prompt": view.place["prompt"], "experiment": view.name, "asked": asked is not None}
    if asked is None:
        return row
    found = pruning(view)
    table = found.table
    judged = table[np.isfinite(table["score"])]
    above = judged[~judged["kept"] & (judged["score"] >= judged["bar"] * (1 + ROUNDING))]
    return row | {
        "rule": found.rule,
        "judged": found.judged,
        "pruned": found.pruned,
        "hidden_weight": found.hidden_weight,
        "unexplained": 0 if asked.relative else len(above),
        "correlation": found.correlation,
        "score_kept": float(judged.loc[judged["kept"], "score"].mean()),
        "score_pruned": float(judged.loc[~judged["kept"], "score"].mean()),
    }


def why_pruned(rows: Sequence[Row]) -> Asked:
    """Q4: scores below the bar, how they go with attention, and that what is pruned is gone."""
    asked = [row for row in rows if row["asked"]]
    if not asked:
        return untestable("q4", Q4, "no pruning was asked for; a grid has prune: {threshold: 0.02}")
    if not sum(row["pruned"] for row in asked):
        judged = sum(row["judged"] for row in asked)
        return untestable("q4", Q4, f"nothing was pruned of {how_many(judged, 'token')} that were judged")
    found = correlation(asked)
    pruned, judged, odd = (sum(row[name] for row in asked) for name in ("pruned", "judged", "unexplained"))
    leak = sum(row["hidden_weight"] for row in asked)
    scores = [over(asked, name) for name in ("score_pruned", "score_kept")]
    told = f"Pruned are {pruned} of {how_many(judged, 'token')} that were judged: {asked[0]['rule']}"
    if all(scores):
        told += f"; their scores are {scores[0]} on average, those kept {scores[1]}"
    told += (
        f"; score and attention received from all later sets correlate at {found}."
        if found
        else "; too few have both a score and attention for a correlation."
    )
    good = not leak and not odd
    reason = "pruned tokens get " + ("exactly 0" if not leak else f"{number(leak)} of weight") + " later"
    reason += f"; {odd} were pruned at a score above the bar" if odd else "; every one scored below the bar"
    details = [{name: value for name, value in row.items() if name not in ("asked", "rule")} for row in asked]
    if found is None:
        return Asked("q4", Q4, told, None, None, _prompts(asked), judged_as(good), reason, "", details)
    return Asked(
        "q4", Q4, told, found.value, found.ci, found.n, judged_as(good), reason, "correlation", details
    )


def correlation(rows: Sequence[Row]) -> Estimate | None:
    """The mean correlation over prompts, by Fisher's z, so that its interval stays within -1 and 1."""
    z = [row | {"z": float(np.arctanh(np.clip(row["correlation"], -NEAR_1, NEAR_1)))} for row in rows]
    found = over(z, "z")
    if found is None:
        return None
    ends = found.ci and (float(np.tanh(found.ci[0])), float(np.tanh(found.ci[1])))
    return Estimate(float(np.tanh(found.value)), ends, found.n)


def _prompts(rows: Sequence[Row]) -> int:
    return len({row["prompt"] for row in rows})


def curve_of(view: View) -> Row:
    """What q5 needs of an experiment."""
    cell = view.cube.cell(view.index)
    used = view.threshold_used
    formula = [threshold_at(cell.threshold, step, cell.max_tokens) for step in range(view.steps)]
    steps = np.arange(view.steps)
    return {
        "prompt": view.place["prompt"],
        "experiment": view.name,
        "mode": view.mode,
        "threshold": view.place.get("threshold", _told(cell.threshold)),
        "dynamic": isinstance(cell.threshold, Curve) and bool(np.ptp(used) > 0),
        "off": float(np.abs(used - formula).max()) if view.steps else 0.0,
        "monotone": _monotone(used, cell.threshold),
        "slope": float(np.polyfit(steps, view.width, 1)[0]) if view.steps > 1 else float("nan"),
        "width": float(view.width.mean()) if view.steps else float("nan"),
        "entropy": float(view.entropy.mean(dtype=np.float64)) if view.steps else float("nan"),
        "seconds": float(view.cube.read("seconds", view.index)[()]),
    }


def dynamic(rows: Sequence[Row]) -> Asked:
    """Q5: the threshold follows its formula and never turns back; what width, entropy and time do."""
    moving = [row for row in rows if row["dynamic"] and row["mode"] != "single"]
    off = max(row["off"] for row in rows)
    details = _by_threshold(rows)
    if not moving:
        constant = "; ".join(f"{row['threshold']}: width {number(row['width'])}" for row in details)
        why = f"the threshold is the same at every step ({constant}); a grid has threshold: {{start, end}}"
        return untestable("q5", Q5, why)
    found = over(moving, "slope")
    if found is None:
        return untestable("q5", Q5, "no experiment has two steps")
    turned = next((row["experiment"] for row in moving if not row["monotone"]), None)
    good = off <= SAME and turned is None
    told = [f"width {number(row['width'])}, entropy {number(row['entropy'])} nat" for row in details]
    costs = "; ".join(
        f"{row['threshold']}: {text}, {number(row['seconds'])} s"
        for row, text in zip(details, told, strict=True)
    )
    sentence = f"The width of a set changes by {found} tokens a step under a moving threshold; {costs}."
    reason = f"thresholds used are within {number(off)} of the formula" + (
        f", and turn back in {turned}" if turned else ", and go one way only"
    )
    return Asked(
        "q5", Q5, sentence, found.value, found.ci, found.n, judged_as(good), reason, "tokens a step", details
    )


def _by_threshold(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Width, readout and time at each threshold, means over prompts."""
    names = ("slope", "width", "entropy", "seconds")
    found = []
    for value in dict.fromkeys(row["threshold"] for row in rows):
        own = [row for row in rows if row["threshold"] == value]
        means = {name: over(own, name) for name in names}
        told: dict[str, Any] = {"threshold": value}
        for name, mean in means.items():
            told |= {name: mean.value if mean else float("nan"), f"{name}_ci": mean.ci if mean else None}
        found.append(told)
    return found


def _monotone(used: npt.NDArray[np.float64], asked: float | Curve) -> bool:
    way = np.sign(asked.end - asked.start) if isinstance(asked, Curve) else 0.0
    return bool((np.diff(used) * way >= -SAME).all())


def _told(asked: float | Curve) -> str:
    return f"{asked.curve} {asked.start:g}-{asked.end:g}" if isinstance(asked, Curve) else f"{asked:g}"
