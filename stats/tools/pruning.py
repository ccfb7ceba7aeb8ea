"""Why tokens were pruned: each one's score and bar, and whether what was hidden was really gone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...dataset.options import Prune
from ..view import View

__all__ = ["Pruned", "decisions", "pruning", "rule"]


_COLUMNS = {
    **dict.fromkeys(("step", "slot", "token"), "int64"),
    "label": "object",
    "probability": "float64",
    "score": "float64",
    "bar": "float64",
    "kept": "bool",
    "pruned_at": "int64",
    "received": "float64",
    "hidden_weight": "float64",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """One row of `table` a token of a set that had a choice; holds: nothing hidden got any weight later.

    correlation is of score and attention received from later sets, over tokens that have both.
    """

    rule: str
    table: pd.DataFrame
    judged: int
    pruned: int
    hidden_weight: float
    holds: bool
    correlation: float


def rule(view: View) -> Prune | None:
    """The pruning that the grid asked of this experiment, None if none."""
    return view.cube.cell(view.index).prune


def pruning(view: View) -> Pruned:
    """What pruning did in an experiment, and the two checks of it."""
    table, asked = decisions(view), rule(view)
    later = table["hidden_weight"].to_numpy()
    hidden = float(np.nansum(later))
    both = np.isfinite(table["score"]) & np.isfinite(table["received"])
    return Pruned(
        _rule(asked),
        table,
        int(np.isfinite(table["score"]).sum()),
        int((~table["kept"]).sum()),
        hidden,
        bool(not np.nan_to_num(later).any()),
        _correlation(table[both]),
    )


def decisions(view: View) -> pd.DataFrame:
    """One row a token of a set of two or more: score, bar, kept, and the attention it received.

    bar is NaN where the rule is relative and the set's best score is not stored; received is the mean weight
    from later sets that see it, hidden_weight all that it got once hidden: exactly 0, or pruning failed.
    """
    asked, weights = rule(view), view.attention().astype(np.float64) if view.has_attention else None
    layers = view.cube_attention() if view.has_attention and (view.pruned_at >= 0).any() else None
    rows = []
    for step in view.wide_steps:
        best = float(np.nanmax([*view.prune_score[view.of_step(step)], -np.inf]))
        for slot in view.of_step(step):
            gone = int(view.pruned_at[slot])
            rows.append(
                {
                    "step": step,
                    "slot": slot,
                    "token": int(view.token[slot]),
                    "label": view.labels[slot],
                    "probability": float(view.probability[slot]),
                    "score": float(view.prune_score[slot]),
                    "bar": _bar(asked, best),
                    "kept": gone < 0,
                    "pruned_at": gone,
                    "received": _received(view, weights, slot),
                    "hidden_weight": _hidden(view, layers, slot, gone),
                }
            )
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def _rule(asked: Prune | None) -> str:
    if asked is None:
        return "no pruning was asked for"
    bar = f"{asked.threshold:g}" + (" of the best score of its set" if asked.relative else "")
    return f"hidden where the attention received is below {bar}"


def _bar(asked: Prune | None, best: float) -> float:
    if asked is None or not np.isfinite(best):
        return float("nan")
    return asked.threshold * best if asked.relative else asked.threshold


def _received(view: View, weights: Any, slot: int) -> float:
    if weights is None:
        return float("nan")
    rows = (view.slot_step > view.slot_step[slot]) & view.visible[:, slot] & np.isfinite(weights[:, slot])
    return float(weights[rows, slot].mean()) if rows.any() else float("nan")


def _hidden(view: View, layers: Any, slot: int, gone: int) -> float:
    """All the weight, over layers and heads, on a token from rows that came after it was pruned."""
    if layers is None or gone < 0:
        return float("nan")
    found = layers[:, :, view.slot_step >= gone, slot]
    return float(np.nansum(found, dtype=np.float64))


def _correlation(table: pd.DataFrame) -> float:
    a, b = table["score"].to_numpy(), table["received"].to_numpy()
    if a.size < 3 or not (np.ptp(a) and np.ptp(b)):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
