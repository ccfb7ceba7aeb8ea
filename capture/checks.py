"""The proof that the treatment was real: what the tensors showed that the model really used.

`seen_in` looks at one pass of one branch, `Evidence` adds up over them, `verdict` is what is stored.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dataset.cell import Cell
from ..dataset.schema import CHECKS, FAIL, NOT_APPLICABLE, PASS
from ..dataset.visibility import PROMPT
from .forest import Growth
from .tap import Passed, Watched

ROW_SUM = 1e-3
SEES_SIBLINGS = ("visible", "causal")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one or more passes of a cell showed.

    off: how far from 1 a row added up; hidden_pairs and hidden: pairs that must not be attended, and the most
    weight on one, summed over layers and heads; unseen: pairs that must be, and got no weight at all; wide:
    sets of width >= 2, sight: least weight that one gave to visible siblings; apart: least difference between
    keys of siblings of different token ids; shifted: between positions given and applied; rotated: whether
    RoPE applied any; pooled: whether every layer took in every node; broken: numbers that are not finite.
    """

    off: float = 0.0
    hidden_pairs: int = 0
    hidden: float = 0.0
    unseen: int = 0
    wide: int = 0
    sight: float = np.inf
    apart: float = np.inf
    shifted: float = 0.0
    rotated: bool = False
    pooled: bool = True
    broken: int = 0

    def __add__(self, more: "Evidence") -> "Evidence":
        return Evidence(
            off=max(self.off, more.off),
            hidden_pairs=self.hidden_pairs + more.hidden_pairs,
            hidden=max(self.hidden, more.hidden),
            unseen=self.unseen + more.unseen,
            wide=self.wide + more.wide,
            sight=min(self.sight, more.sight),
            apart=min(self.apart, more.apart),
            shifted=max(self.shifted, more.shifted),
            rotated=self.rotated or more.rotated,
            pooled=self.pooled and more.pooled,
            broken=self.broken + more.broken,
        )


def seen_in(passed: Passed, watched: Watched, place: int, growth: Growth, mode: str) -> Evidence:
    """What a pass showed of a branch, `place` in its block, held to the visibility of a mode."""
    rows, keys = growth.count, growth.rows.stop
    exists = growth.branch.existing(growth.rows)[:, :keys]
    pairs, hidden, unseen = 0, 0.0, 0
    for window, totals in watched.total.items():
        sees = growth.branch.seen(growth.rows, mode, window)[:, :keys]
        weight = totals[place, :rows, :keys]
        pairs += int((exists & ~sees).sum())
        hidden = max(hidden, float(weight[~sees].max(initial=0.0)))
        unseen += int(np.maximum(sees.sum(axis=1) - watched.reached[window][place, :rows], 0).sum())
    off = watched.off[place, :rows]
    evidence = Evidence(
        off=float(np.nanmax(off, initial=0.0)),
        hidden_pairs=pairs,
        hidden=hidden,
        unseen=unseen,
        shifted=float(passed.shifted[growth.nodes].max()),
        rotated=passed.rotated,
        pooled=passed.pooled,
        broken=int((~np.isfinite(off)).sum()),
    )
    wide = rows > 1 and growth.branch.slot_step[-1] != PROMPT
    return evidence + _of_siblings(passed, watched, place, growth, mode) if wide else evidence


def _of_siblings(passed: Passed, watched: Watched, place: int, growth: Growth, mode: str) -> Evidence:
    rows, keys = growth.count, growth.rows.stop
    among = slice(keys - rows, keys)
    sees = growth.branch.seen(growth.rows, mode)[:, among] & ~np.eye(rows, dtype=bool)
    weight = sum(totals[place, :rows, among] for totals in watched.total.values())
    token, stored = growth.branch.token[growth.rows], passed.first_keys[growth.nodes]
    differs = token[:, None] != token[None, :]
    apart = np.abs(stored[:, None] - stored[None, :]).max(axis=-1)
    return Evidence(
        wide=1,
        sight=float(np.where(sees, weight, 0).sum()) if sees.any() else np.inf,
        apart=float(apart[differs].min(initial=np.inf)),
    )


def verdict(cell: Cell, small: dict[str, Any], evidence: Evidence, prompt: int) -> dict[str, Any]:
    """`check_result` and `check_value` of a cell: (check,), in the order of the schema."""
    step, width = np.asarray(small["slot_step"]), np.asarray(small["width"])
    expected = np.where(step == PROMPT, np.arange(step.size), prompt + step)
    shifted = max(evidence.shifted, float(np.abs(expected - small["logical"]).max()))
    slots = prompt + int(width.sum())
    looks = cell.mode in SEES_SIBLINGS and evidence.wide > 0
    found = {
        "rows_sum": (evidence.off <= ROW_SUM, evidence.off),
        "isolation": (
            evidence.hidden == 0 if evidence.hidden_pairs or evidence.hidden else None,
            evidence.hidden,
        ),
        "sight": (evidence.sight > 0 if looks else None, evidence.sight if looks else np.nan),
        "cache": (evidence.pooled and not evidence.unseen and slots == step.size, slots),
        "positions": (shifted == 0 if evidence.rotated else None, shifted),
        "distinct_keys": (evidence.apart > 0 if np.isfinite(evidence.apart) else None, evidence.apart),
        "finite": (evidence.broken == 0, evidence.broken),
        "width": (width.max(initial=1) == 1 if cell.mode == "single" else None, width.max(initial=0)),
    }
    result, value = np.full(len(CHECKS), NOT_APPLICABLE), np.full(len(CHECKS), np.nan)
    for name, (good, number) in found.items():
        place = CHECKS.index(name)
        result[place] = NOT_APPLICABLE if good is None else PASS if good else FAIL
        value[place] = number if np.isfinite(number) else np.nan
    return {"check_result": result, "check_value": value}
