"""Which experiments the answers rest on, and which they leave out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...words import how_many
from ..gate import judge
from ..study import Study, read

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["Used", "listed", "used"]


@dataclass(frozen=True, slots=True, eq=False)
class Used:
    """The study behind the answers, how many done experiments have a value in it, and the rest in words."""

    study: Study
    done: int
    count: int
    left: tuple[str, ...]

    @property
    def prompts(self) -> int:
        """How many prompts are compared."""
        return len(self.study.prompts) if self.count else 0


def used(report: "Report") -> Used:
    """What of a report's experiments its answers are made of."""
    part, response = report.part, report.source["response"]
    raw = read(part.frame, response)
    study = judge(raw, part.between).study
    mine = raw.frame[raw.frame["mode"].isin(study.modes) & raw.frame["prompt"].isin(study.prompts)]
    count = int(np.isfinite(mine[response].astype(float)).sum())
    return Used(study, len(raw.frame), count, tuple(_left(report, raw, study)))


def _left(report: "Report", raw: Study, study: Study) -> list[str]:
    told = [check.detail for check in report.answers.gate if check.check == "defined"]
    said = [detail for detail in told if detail.startswith("left out: ")]
    twins = [mode for mode in raw.modes if mode not in study.modes]
    if twins:
        said.append(f"mode{'s' * (len(twins) > 1)} {listed(twins)}, a copy of {study.modes[0]}")
    beside = [mode for mode in dict.fromkeys(raw.frame["mode"]) if mode not in raw.modes]
    if beside:
        rows = int(raw.frame["mode"].isin(beside).sum())
        said.append(
            f"beside them stand {how_many(rows, 'experiment')} in mode {listed(beside)}, not averaged in"
        )
    return said


def listed(names: list[str] | tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"
