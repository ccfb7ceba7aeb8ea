"""The numbers of a report as tables for other programs: one file each in the folder tables."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..questions import Answer
from . import prompts
from .parts import checks_frame
from .questions import p_of

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["frames", "safe"]


def frames(report: "Report") -> dict[str, pd.DataFrame]:
    """Name -> table: answers, gate, experiments, between, steps, prompts, checks, and one a swept axis."""
    part, found = report.part, report.answers
    made: dict[str, pd.DataFrame | None] = {
        "answers": pd.DataFrame([_row(key, each) for key, each in found.answers.items()]),
        "gate": pd.DataFrame([asdict(check) for check in found.gate]),
        "experiments": part.frame,
        "between": part.between,
        "steps": part.steps,
        "prompts": prompts.frame_of(report),
        "checks": checks_frame(report),
    }
    swept = {f"axis_{safe(axis)}": _axis(rows) for axis, rows in report.axes.items()}
    return {name: frame for name, frame in (made | swept).items() if frame is not None}


def _row(key: str, found: Answer) -> dict[str, Any]:
    low, high = found.ci or (None, None)
    df = found.df if isinstance(found.df, tuple | list) else (None, found.df)
    return {
        "key": key,
        "estimate": found.estimate,
        "low": low,
        "high": high,
        "df": df[1],
        "df_between": df[0],
        "p": found.p,
        "p_of": p_of(key, found),
        "p_holm": found.details.get("p_holm"),
        "n": found.n,
        "method": found.method,
        "not_tested": found.not_tested,
        "sentence": found.sentence,
    }


def _axis(rows: Any) -> pd.DataFrame:
    """One row a measure and value, intervals in two columns each."""
    made = []
    for row in rows:
        plain: Mapping[str, Any] = asdict(row)
        ends = {
            f"{name}{end}": None if plain[of] is None else plain[of][i]
            for of, name in (("ci", ""), ("difference_ci", "difference_"))
            for i, end in enumerate(("low", "high"))
        }
        made.append({name: value for name, value in plain.items() if not name.endswith("ci")} | ends)
    return pd.DataFrame(made)


def safe(name: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:80] or "unnamed"
