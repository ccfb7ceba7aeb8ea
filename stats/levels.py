"""Down to which level two modes agree (L0 to L3), and whether a bound is above the noise of capturing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .questions import number
from .study import Study

__all__ = ["ABOVE", "floor", "levels", "log_floor", "too_near"]

ABOVE = 10.0  # a bound must be so many noise floors
NOT_MEASURED = "not measured: run with --cross-check 0.1 or control: repeat"
NOT_COMPARED = "not told: no comparison of the two modes came with the frame"


def floor(study: Study) -> Mapping[str, Any]:
    """The largest differences between two captures of one experiment; empty: not measured."""
    return study.frame.attrs.get("noise_floor") or {}


def log_floor(study: Study) -> float | None:
    """The least that the noise floor of attention changes a log: weights are at most 1."""
    found = floor(study).get("attention")
    return None if found is None else float(found)


def too_near(bound: float, noise: float | None, unit: str) -> str | None:
    """One sentence where a bound is less than ten noise floors."""
    if noise is None or bound >= ABOVE * noise:
        return None
    return (
        f"the bound of {number(bound)} {unit} is less than {number(ABOVE)} times the noise floor of "
        f"{number(noise)} {unit}: what is said within it may be noise of capturing"
    )


def levels(study: Study, pairs: pd.DataFrame | None, equivalent: bool | None) -> dict[str, Any]:
    """How many pairs have the same content, differ by noise alone, took the same sets; and equivalence."""
    rows = pairs[pairs["prompt"].astype(str).isin(study.prompts)] if pairs is not None else None
    told: dict[str, Any] = {"pairs": 0 if rows is None else len(rows)}
    if rows is not None:
        told |= {name: _true(rows, name) for name in ("identical", "same_sets") if name in rows.columns}
        if "first_difference" in rows.columns:
            apart = rows.loc[rows["first_difference"] >= 0, "first_difference"]
            told["earliest_difference"] = int(apart.min()) if len(apart) else None
    told["noise_floor"] = noise = floor(study).get("attention")
    within = None if rows is None else _within(rows, noise)
    n = told["pairs"]
    claims = [
        ("L0", "same content", _count(told.get("identical"), n), NOT_COMPARED),
        ("L1", "within the noise floor", within, NOT_MEASURED if noise is None else NOT_COMPARED),
        ("L2", "same token sets", _count(told.get("same_sets"), n), NOT_COMPARED),
    ]
    found = [_claim(*claim) for claim in claims]
    said = "not tested" if equivalent is None else "shown" if equivalent else "not shown"
    last = {"level": "L3", "claim": "equivalent within the bound", "holds": equivalent, "told": said}
    return told | {"claims": [*found, last]}


def _true(rows: pd.DataFrame, column: str) -> int:
    return int(rows[column].astype(bool).sum())


def _count(found: int | None, n: int) -> tuple[int, int] | None:
    return None if found is None else (found, n)


def _within(rows: pd.DataFrame, noise: float | None) -> tuple[int, int] | None:
    """Pairs whose weights differ by no more than the noise floor, of those compared."""
    if noise is None or "attention_difference" not in rows.columns:
        return None
    apart = rows["attention_difference"].to_numpy(dtype=np.float64)
    return int(np.sum(apart <= noise)), int(np.isfinite(apart).sum())


def _claim(level: str, claim: str, found: tuple[int, int] | None, lacking: str) -> dict[str, Any]:
    if found is None or not found[1]:
        return {"level": level, "claim": claim, "holds": None, "told": lacking}
    count, n = found
    return {"level": level, "claim": claim, "holds": count == n, "told": f"in {count} of {n} pairs"}
