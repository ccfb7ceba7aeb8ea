"""What the experiments are read from: a report of a cube, its tables, and its experiments one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ...dataset.runlog import runs
from ...dataset.schema import DONE, FAIL, FAILED, PASS, TREATMENT_CHECKS
from ...errors import BadInput
from .. import measures
from ..gate import OF_MASKS, judge
from ..page.generation import kind
from ..questions import Answer
from ..report import Report
from ..report import report as make_report
from ..study import PAIR, Study, read
from ..subjects import Subjects
from ..view import View

__all__ = ["Evidence", "evidence"]

NOT_BOTH = "isolated and visible are not both in this cube: nothing to compare"


@dataclass(frozen=True, eq=False)
class Evidence:
    """A report and the cube behind it, at one value of every swept axis."""

    report: Report
    cube: xr.Dataset
    frame: pd.DataFrame
    between: pd.DataFrame | None

    @cached_property
    def subjects(self) -> Subjects:
        """The done cells."""
        return Subjects(self.cube, *self._chosen)

    @property
    def _chosen(self) -> tuple[list[int] | None, list[int] | None]:
        """The layers and heads that the report was made of."""
        return self.frame.attrs["layers"] or None, self.frame.attrs["heads"] or None

    @property
    def name(self) -> str:
        """That of the cube."""
        return str(self.report.source["name"])

    @property
    def control(self) -> str | None:
        """Which control this is; None of data."""
        told: str | None = self.frame.attrs.get("control")
        return told

    @property
    def forced(self) -> str | None:
        """The mode along whose sets the others were fed, if any was."""
        told: str | None = self.frame.attrs.get("replay")
        return told

    @property
    def origin(self) -> str:
        """How the cube came to be: captured, simulated or imported."""
        return kind(self.report)

    @property
    def imported(self) -> str:
        """From where it was imported; empty otherwise."""
        told = self.frame.attrs.get("imported")
        return f"imported from {told['from']}" if told else ""

    @property
    def about(self) -> str:
        """What must be known of the cube before any outcome: where it is answered, and what is no capture."""
        at = ", ".join(f"{axis} = {value}" for axis, value in self.report.at.items())
        parts = (
            f"at {at}" if at else "",
            "of a simulated cube, made from numbers (no model ran)" if self.origin == "simulated" else "",
            f"of files {self.imported}" if self.imported else "",
            f"of a control cube ({self.control}), which is no data" if self.control else "",
        )
        return ", ".join(filter(None, parts))

    @cached_property
    def checks(self) -> Mapping[str, Mapping[str, int]]:
        """How often each treatment check passed and failed, at the chosen value of every swept axis."""
        subjects = self.subjects
        results = subjects.cube.read("check_result")[np.isin(subjects.status, (DONE, FAILED))]
        return {
            name: {"pass": int((results[:, i] == PASS).sum()), "fail": int((results[:, i] == FAIL).sum())}
            for i, name in enumerate(TREATMENT_CHECKS)
        }

    def tried(self, check: str) -> int:
        """In how many experiments a treatment check was made."""
        return self.checks[check]["pass"] + self.checks[check]["fail"]

    @cached_property
    def study(self) -> Study:
        """The prompts that the answers and the scenario rest on."""
        return judge(read(self.frame, self.report.source["response"]), self.between).study

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """The records of the runs that filled the cube."""
        return runs(self.subjects.cube.place)

    def answer(self, key: str) -> Answer:
        """One of the twelve answers."""
        found = self.report.answers.answers.get(key)
        return found if found is not None else Answer("", not_tested="it was not asked for in this report")

    def of_mode(self, mode: str) -> pd.DataFrame:
        """The experiments of a mode."""
        return self.frame[self.frame["mode"] == mode]

    def views(self, *modes: str) -> Iterator[View]:
        """Done experiments of these modes, or of all, one after the other."""
        names = self.subjects.dims["mode"]
        for index in self.subjects.indices:
            if not modes or names[index[2]] in modes:
                yield View(self.subjects, self.subjects.experiment(index))

    def pairs(self) -> Iterator[tuple[View, View]]:
        """Isolated and visible of the same prompt and seed, one pair after the other."""
        for modes in self.subjects.groups().values():
            if set(PAIR) <= set(modes):
                one, other = (View(self.subjects, self.subjects.experiment(modes[mode])) for mode in PAIR)
                yield one, other

    def differences(self) -> xr.Dataset:
        """Where in depth and in time the modes' weights differ."""
        layers, heads = self._chosen
        return measures.differences(measures.once(self.cube, layers=layers, heads=heads), *PAIR)

    def without_treatment(self) -> str:
        """Why a comparison of the modes says nothing of visibility; empty where the treatment acted."""
        return self.untreated() or self.unseen()

    def unseen(self) -> str:
        """Why it cannot be told whether the treatment acted; empty where somebody looked."""
        if self.control:
            return f"this is a control cube ({self.control}), which is no data"
        if not any(map(self.tried, OF_MASKS)):
            where = f"{self.imported}: " if self.imported else ""
            return f"{where}no experiment has a check of the mask (isolation, sight)"
        return ""

    def untreated(self) -> str:
        """How the treatment is shown not to have acted; empty where it is not."""
        if self.control == "no_mask":
            return "the mask was left out on purpose (control: no_mask)"
        if bad := [name for name in OF_MASKS if self.checks[name]["fail"]]:
            return f"treatment check {bad[0]} failed in {self.checks[bad[0]]['fail']} experiments"
        if not (self.frame["parallel_sets"] > 0).any():
            return "no experiment has a set of two or more tokens"
        if self.imported:  # files may hold weights where a mode hides keys, and no row that shows it
            return ""
        apart = np.empty(0) if self.between is None else self.between["apart_most"].to_numpy(dtype=float)
        if np.isfinite(apart).any() and not np.nanmax(apart) > 0:
            return "no sibling received any attention in either mode: the treatment is not seen to act"
        return ""


def evidence(source: Any, report: Report | None = None) -> Evidence:
    """What a cube offers to the experiments; `report` is one that was already made of it."""
    made = make_report(source) if report is None else report
    if made.part.cube is None:
        raise BadInput(f"{made.source['name']}: experiments are read from a cube, and this is a table")
    return Evidence(made, made.part.cube, made.part.frame, made.part.between)
