"""From a cube, or any tidy table, to the answers: at one value of each swept axis, and a table per axis.

>>> made = report("cube.zarr", at={"threshold": 0.05})
>>> made.answers.answers["downweighting"].sentence
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import BadInput
from .answers import Answers, answer
from .axes import Part, Row, compare
from .gate import Check
from .questions import plain
from .source import opened
from .survey import Progress
from .table import is_table
from .titles import title

if TYPE_CHECKING:
    from .replication.result import Experiment

__all__ = ["Report", "report"]

ABOUT = ("url", "digest", "model", "control", "replay", "layers", "heads", "cells", "used")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Report:
    """The answers at one value of each axis, what they were made of, and what each axis changes."""

    source: Mapping[str, Any]
    at: Mapping[str, Any]
    answers: Answers
    axes: Mapping[str, tuple[Row, ...]]
    part: Part
    experiments: tuple["Experiment", ...] = ()

    def __repr__(self) -> str:
        gate = "the gate holds" if self.passed else "the gate FAILED"
        return f"<Report of {self.source['name']}: {gate}; {', '.join(self.answers.answers)}>"

    @property
    def passed(self) -> bool:
        """Whether no check of the gate failed."""
        return self.answers.passed

    def only(self, *names: str) -> "Report":
        """The same with some of its answers."""
        known = self.answers.answers
        if odd := [name for name in names if name not in known]:
            raise BadInput(f"there is no answer {odd[0]!r}; there are {', '.join(known)}")
        kept = {name: known[name] for name in known if name in names}
        return replace(self, answers=replace(self.answers, answers=kept))

    def with_experiments(self, *names: str) -> "Report":
        """The same with what the experiments exp1 ... exp5 of the seeds come to."""
        from .replication.experiments import experiment

        source = self.part.cube if self.part.cube is not None else self.part.frame
        return replace(self, experiments=tuple(experiment(source, name, self) for name in names))

    def to_dict(self) -> dict[str, Any]:
        """The shape of report.json, plain values only."""
        swept = {name: [asdict(row) for row in rows] for name, rows in self.axes.items()}
        own = plain({"source": self.source, "at": self.at, "axes": swept})
        told: dict[str, Any] = self.answers.to_dict() | own
        if checks := self.part.frame.attrs.get("checks"):
            told["checks"] = plain(checks)
        if self.experiments:
            told["experiments"] = [each.to_dict() for each in self.experiments]
        return told

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)

    def to_html(self, explore: Sequence[str] = ()) -> str:
        """One page for people that needs no network; explore: ids of prompts whose steps can be looked at."""
        from .page import writing

        return writing.page(self, explore)

    def _repr_html_(self) -> str:
        """What a notebook shows: the answers; `to_html` is the whole page."""
        response = self.source["response"]
        told = [
            f"<li><b>{escape(title(key, response)[0])}</b> {escape(of.not_tested or of.sentence)}"
            for key, of in self.answers.answers.items()
        ]
        gate = "" if self.passed else "<p><b>The gate failed.</b></p>"
        return f"<h3>{escape(str(self.source['name']))}</h3>{gate}<ul>{''.join(told)}</ul>"

    def write(self, folder: str | Path, *, html: bool = True, explore: Sequence[str] = ()) -> Path:
        """Put report.json, tables and, unless it is to be quick, figures and index.html into a folder.

        What an older report left there is replaced, each file in one step; gives the path of the page, or
        without one of report.json.
        """
        from .page import writing

        return writing.write(self, Path(folder), html, explore)


def report(
    source: Any,
    *,
    response: str = "downweighting",
    at: Mapping[str, Any] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    sesoi: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Answers from a cube (path, URL, or what open_cube gives) or a tidy table (file or DataFrame).

    at: the value of each swept axis to answer at; the first one where it is not said.
    """
    whole = opened(source, layers, heads)
    chosen = whole.point(at or {})
    others = [(axis, value) for axis, values in whole.axes.items() for value in values]
    others = [(axis, value) for axis, value in others if value != chosen[axis]]
    first, *rest = whole.parts([chosen, *(chosen | {axis: value} for axis, value in others)], progress)
    beside = dict(zip(others, rest, strict=True))
    found = answer(first.frame, response, between=first.between, maps=first.maps, sesoi=sesoi, seed=seed)
    swept = {
        axis: compare({value: beside.get((axis, value), first) for value in values}, chosen[axis], response)
        for axis, values in whole.axes.items()
        if len(values) > 1
    }
    attrs = first.frame.attrs
    about = {key: attrs[key] for key in ABOUT if key in attrs}
    asked = {"response": response, "sesoi": sesoi, "seed": seed}
    made = {"name": whole.name, **asked, "tempocube": version("tempocube"), **_made_from(source), **about}
    return Report(made, chosen, _with_cells(found, attrs.get("cells") or {}), swept, first)


def _made_from(source: Any) -> dict[str, str]:
    """What kind of thing it is, and of a table's file its hash."""
    if isinstance(source, pd.DataFrame):
        return {"kind": "frame"}
    if not is_table(source):
        return {"kind": "cube"}
    with Path(source).expanduser().open("rb") as file:
        return {"kind": "table", "file_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _with_cells(found: Answers, cells: Mapping[str, int]) -> Answers:
    """Cells that were asked for and are not done belong to what must be known first."""
    left = {name: count for name, count in cells.items() if name != "done" and count}
    if not left:
        return found
    told = ", ".join(f"{count} {name}" for name, count in left.items())
    detail = (
        f"{cells.get('done', 0)} of {sum(cells.values())} cells are used, {told}; "
        "the same tempo-capture goes on where it stopped"
    )
    checks = (Check("cells", "suspect", detail), *found.gate)
    return replace(found, gate=checks, warnings=(detail, *found.warnings))
