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
    "later_rows": "int64",
    "captured_rows": "int64",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """One row of `table` a token of a set that had a choice; holds: nothing hidden got any weight later.

    pruned counts tokens that later ones hardly attended to, not those that ended a text. Where no later row
    was captured hidden_weight is NaN and holds None. correlation is of score and of attention received after
    it was given, over tokens that have both.
    """

    rule: str
    table: pd.DataFrame
    judged: int
    pruned: int
    hidden_weight: float
    holds: bool | None
    correlation: float


def rule(view: View) -> Prune | None:
    """The pruning that the grid asked of this experiment, None if none."""
    return view.cube.cell(view.index).prune


def pruning(view: View) -> Pruned:
    """What pruning did in an experiment, and the two checks of it."""
    table, asked = decisions(view), rule(view)
    seen = bool(table["captured_rows"].sum())
    hidden = float(table["hidden_weight"].sum()) if seen else float("nan")
    both = np.isfinite(table["score"]) & np.isfinite(table["received"])
    return Pruned(
        _rule(asked),
        table,
        int(np.isfinite(table["score"]).sum()),
        int((table["pruned_at"] > table["step"] + 1).sum()),
        hidden,
        hidden == 0 if seen else None,
        _correlation(table[both]),
    )


def decisions(view: View) -> pd.DataFrame:
    """One row a token of a set of two or more: score, bar, kept, and the attention it received.

    bar is NaN where it is not known: the rule is relative and a later score has replaced the one that it was
    a share of, or a leader's prunings are followed. received is the mean weight from sets after those that
    judged it, hidden_weight all that it got once hidden, exactly 0 or pruning failed, in captured_rows of
    later_rows; both are NaN where no such row was captured.
    """
    own = rule(view) if view.cube.cell(view.index).leader is None else None
    asked, weights = rule(view), view.attention().astype(np.float64) if view.has_attention else None
    layers = view.cube_attention() if view.has_attention and (view.pruned_at >= 0).any() else None
    rows = []
    for step in view.wide_steps:
        last = _last_judged(view, step) if asked else {}
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
                    "bar": _bar(view, own, last, slot),
                    "kept": gone < 0,
                    "pruned_at": gone,
                    "received": _received(view, weights, slot, last.get(slot, step)),
                    **_hidden(view, layers, slot, gone),
                }
            )
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def _rule(asked: Prune | None) -> str:
    if asked is None:
        return "no pruning was asked for"
    bar = f"{asked.threshold:g}" + (" of the best score of its set" if asked.relative else "")
    return f"hidden where the attention received is below {bar}"


def _last_judged(view: View, step: int) -> dict[int, int]:
    """The step at which each token of a set got the score that is stored; no step for one never judged.

    A set is judged by every later one, as long as two of its tokens are left.
    """
    last: dict[int, int] = {}
    slots = view.of_step(step)
    for later in range(step + 1, view.steps):
        left = [slot for slot in slots if not 0 <= view.pruned_at[slot] <= later]
        if len(left) < 2:
            break
        last |= dict.fromkeys(left, later)
    return last


def _bar(view: View, asked: Prune | None, last: dict[int, int], slot: int) -> float:
    """The score below which a token had to go, when it was judged last."""
    if asked is None or slot not in last:
        return float("nan")
    if not asked.relative:
        return asked.threshold
    beside = [other for other in last if not 0 <= view.pruned_at[other] <= last[slot]]
    known = all(last[other] == last[slot] for other in beside)
    return asked.threshold * float(view.prune_score[beside].max()) if known else float("nan")


def _received(view: View, weights: Any, slot: int, since: int) -> float:
    """The mean weight from sets after a step: a score and the weights it was made of are the same thing."""
    if weights is None:
        return float("nan")
    rows = (view.slot_step > since) & view.visible[:, slot] & np.isfinite(weights[:, slot])
    return float(weights[rows, slot].mean()) if rows.any() else float("nan")


def _hidden(view: View, layers: Any, slot: int, gone: int) -> dict[str, float]:
    """All the weight, over layers and heads, on a token from rows that came after it was pruned."""
    later = (view.slot_step >= gone) & (gone >= 0)
    found = np.full((1, 1, later.sum()), np.nan) if layers is None else layers[:, :, later, slot]
    captured = np.isfinite(found).any(axis=(0, 1))
    weight = float(np.nansum(found, dtype=np.float64)) if captured.any() else float("nan")
    return {"hidden_weight": weight, "later_rows": later.sum(), "captured_rows": captured.sum()}


def _correlation(table: pd.DataFrame) -> float:
    a, b = table["score"].to_numpy(), table["received"].to_numpy()
    if a.size < 3 or not (np.ptp(a) and np.ptp(b)):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
