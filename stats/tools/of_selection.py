"""Q4 and Q5 of seeds/002: why are tokens pruned, and what does a changing threshold do?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...dataset.options import Curve, threshold_at
from ...words import how_many
from ..questions import number
from ..view import View
from .asked import Asked, Estimate, Row, answered, judged, over, untestable
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
    table = found.table[found.table["score"].notna()]
    gone = table[table["pruned_at"] > table["step"] + 1]
    barred = gone[gone["bar"].notna()]
    return row | {
        "rule": found.rule,
        "judged": found.judged,
        "pruned": found.pruned,
        "later_rows": int(found.table["later_rows"].sum()),
        "captured_rows": int(found.table["captured_rows"].sum()),
        "hidden_weight": found.hidden_weight,
        "explained": int((barred["score"] < barred["bar"] * (1 + ROUNDING)).sum()),
        "unexplained": int((barred["score"] >= barred["bar"] * (1 + ROUNDING)).sum()),
        "correlation": found.correlation,
        "score_kept": float(table.loc[table["kept"], "score"].mean()),
        "score_pruned": float(gone["score"].mean()),
    }


def why_pruned(rows: Sequence[Row]) -> Asked:
    """Q4: scores below the bar, how they go with attention, and that what is pruned is gone."""
    asked = [row for row in rows if row["asked"]]
    if not asked:
        return untestable("q4", Q4, "no pruning was asked for; a grid has prune: {threshold: 0.02}")
    names = ("pruned", "judged", "explained", "unexplained", "later_rows", "captured_rows")
    total = {name: sum(row[name] for row in asked) for name in names}
    if not total["pruned"]:
        return untestable(
            "q4", Q4, f"nothing was pruned of {how_many(total['judged'], 'token')} that were judged"
        )
    leak = float(np.nansum([row["hidden_weight"] for row in asked]))
    reason = f"{_weight_later(total, leak)}; {_bars(total)}"
    bad = leak > 0 or total["unexplained"]
    if not bad and not (total["captured_rows"] and total["explained"]):
        return untestable("q4", Q4, reason)
    found = correlation(asked)
    details = [{name: value for name, value in row.items() if name not in ("asked", "rule")} for row in asked]
    told = _scores(asked, total, found)
    if found is None:
        return Asked("q4", Q4, told, None, None, _prompts(asked), judged(not bad), reason, "", details)
    return answered("q4", Q4, told, found, not bad, reason, "correlation", details)


def _scores(asked: Sequence[Row], total: Row, found: Estimate | None) -> str:
    told = f"Pruned are {total['pruned']} of {how_many(total['judged'], 'token')} that were judged: "
    told += str(asked[0]["rule"])
    scores = [over(asked, name, 0, 1) for name in ("score_pruned", "score_kept")]
    if all(scores):
        told += f"; their scores are {scores[0]} on average, those kept {scores[1]}"
    return told + (
        f"; score and attention that a token gets after it was judged correlate at {found}."
        if found
        else "; too few tokens got attention after they were judged for a correlation with the score."
    )


def _weight_later(total: Row, leak: float) -> str:
    """What pruned tokens get, in the rows that anybody can look at."""
    looked, there = total["captured_rows"], total["later_rows"]
    if not there:
        return "no token came after the pruned ones, so nothing shows that they are gone"
    if not looked:
        return "the attention that pruned tokens get later was not captured"
    told = "pruned tokens get " + ("exactly 0" if not leak else f"{number(leak)} of weight") + " later"
    return told if looked == there else f"{told}, in the {looked} of {there} later rows that were captured"


def _bars(total: Row) -> str:
    """How many prunings their score explains, of those whose bar is known."""
    known, unknown = total["explained"] + total["unexplained"], total["pruned"]
    unknown -= known
    if total["unexplained"]:
        told = f"{total['unexplained']} were pruned at a score above the bar"
    elif not known:
        return "the bar is known of none: later scores replaced it, or a leader's prunings are followed"
    else:
        told = "every one scored below the bar" if not unknown else f"{known} scored below the bar"
    others = (
        "; the bar of {} more is not known: later scores replaced it, or a leader's prunings are followed"
    )
    return told + (others.format(unknown) if unknown else "")


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
    steps, known = np.arange(view.steps), bool(np.isfinite(used).all())
    return {
        "prompt": view.place["prompt"],
        "experiment": view.name,
        "mode": view.mode,
        "threshold": view.place.get("threshold", _told(cell.threshold)),
        "dynamic": isinstance(cell.threshold, Curve) and bool(np.ptp(used) > 0),
        "known": known,
        "off": float(np.abs(used - formula).max()) if view.steps else 0.0,
        "monotone": _monotone(used, cell.threshold),
        "slope": float(np.polyfit(steps, view.width, 1)[0]) if view.steps > 1 else float("nan"),
        "width": float(view.width.mean()) if view.steps else float("nan"),
        "entropy": float(view.entropy.mean(dtype=np.float64)) if view.steps else float("nan"),
        "seconds": float(view.cube.read("seconds", view.index)[()]),
    }


def dynamic(rows: Sequence[Row]) -> Asked:
    """Q5: the threshold follows its formula and never turns back; what width, entropy and time do."""
    if not all(row["known"] for row in rows):
        return untestable("q5", Q5, "the thresholds that were used are not in the cube")
    rows = [row for row in rows if row["mode"] != "single"] or rows
    moving = [row for row in rows if row["dynamic"]]
    details = _by_threshold(rows)
    if not moving:
        constant = "; ".join(f"{row['threshold']}: width {number(row['width'])}" for row in details)
        why = f"the threshold is the same at every step ({constant}); a grid has threshold: {{start, end}}"
        return untestable("q5", Q5, why)
    slopes = _slopes(moving)
    if not slopes:
        return untestable("q5", Q5, "no experiment has two steps")
    off, turned = (
        max(row["off"] for row in rows),
        [row["experiment"] for row in moving if not row["monotone"]],
    )
    told = [f"width {number(row['width'])}, entropy {number(row['entropy'])} nat" for row in details]
    costs = "; ".join(
        f"{row['threshold']}: {text}, {number(row['seconds'])} s"
        for row, text in zip(details, told, strict=True)
    )
    changes = ", ".join(f"{slope} at {value}" for value, slope in slopes.items())
    sentence = (
        f"The width of a set changes, in tokens a step under a moving threshold, by {changes}; {costs}."
    )
    reason = f"thresholds used are within {number(off)} of the formula" + (
        f", and turn back in {turned[0]}" if turned else ", and go one way only"
    )
    good = off <= SAME and not turned
    if len(slopes) > 1:  # a threshold that rises and one that falls have no mean
        n = _prompts(moving)
        return Asked("q5", Q5, sentence, None, None, n, judged(good), reason, "tokens a step", details)
    (slope,) = slopes.values()
    return answered("q5", Q5, sentence, slope, good, reason, "tokens a step", details)


def _slopes(moving: Sequence[Row]) -> dict[str, Estimate]:
    """What the width does at each moving threshold."""
    own = {
        value: over([row for row in moving if row["threshold"] == value], "slope")
        for value in dict.fromkeys(row["threshold"] for row in moving)
    }
    return {value: slope for value, slope in own.items() if slope}


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
