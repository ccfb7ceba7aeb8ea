"""The prompts of a report: on the page with as much text as there is room for, and whole as a table."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from .cells import Table, exact, number, table

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["frame_of", "table_of"]

MOST_PROMPTS = 100  # rows of the page
OF_TEXTS, SHORTEST = 500_000, 1_000  # characters: of all prompts together, and what each has at least


def table_of(report: "Report") -> Table | None:
    """Each prompt: what it is, how many experiments of it are done, how wide its sets were."""
    told = frame_of(report)
    most = max(SHORTEST, OF_TEXTS // max(1, min(len(told), MOST_PROMPTS)))
    rows = [
        [exact(value) if name == "experiments" else _lines(value, most) for name, value in row.items()]
        for row in told.head(MOST_PROMPTS).to_dict("records")
    ]
    made = table("The prompts", [str(name) for name in told.columns], rows, most=MOST_PROMPTS)
    left = len(told) - len(rows)
    return replace(made, more=f"{left:,} more prompts are in tables/prompts.csv") if made and left else made


def _lines(value: Any, most: int) -> Any:
    """A text whose line ends can be seen, and that leaves room on the page for others."""
    if not isinstance(value, str):
        return number(float(value))
    rest = f"… (the first {most:,} of {len(value):,} characters; all are in tables/prompts.csv)"
    return (value if len(value) <= most else value[:most] + rest).replace("\n", " ⏎ ")


def frame_of(report: "Report") -> pd.DataFrame:
    """The same for other programs, with whole texts."""
    frame, cube = report.part.frame, report.part.cube
    frame = frame.assign(prompt=frame["prompt"].astype(str))
    named = {"width": "tokens a set", "parallel_sets": "parallel sets"}
    by = frame.groupby("prompt", sort=False)
    made = pd.DataFrame({"category": by["category"].first().astype(str), "experiments": by.size()})
    made = made.join(by[[name for name in named if name in frame.columns]].mean().rename(columns=named))
    made = made.reset_index()
    if cube is not None and "prompt_text" in cube.coords:
        ids, texts = ([str(each) for each in cube[name].values] for name in ("prompt", "prompt_text"))
        made.insert(2, "text", made["prompt"].map(dict(zip(ids, texts, strict=True))))
    return made
