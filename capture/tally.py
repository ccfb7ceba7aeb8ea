"""What a run adds up to, worker by worker: for its log, its summary, and whoever watches."""

import math
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

from ..dataset.cube import Index
from ..dataset.ledger import Folded
from ..dataset.schema import DONE
from ..words import finite
from .again import Difference, larger
from .worker import Report

KEPT_LOSSES = 200  # deaths that the log tells of one by one


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to; failed and quarantined are all cells of the grid, whichever run gave them up."""

    where: str
    cells: int  # of the grid
    before: int  # done before this run
    done: int  # by this run
    left: int  # neither done nor given up
    failed: dict[str, str]  # cells in words, and why
    quarantined: dict[str, str]
    seconds: float
    tokens: int  # slots captured
    stored: int  # bytes put into the cube
    workers: tuple[dict[str, Any], ...]  # one row a worker process
    cross: dict[str, float] | None  # cells cross-checked, and the largest differences

    @property
    def ok(self) -> bool:
        """No cell of the grid has been given up."""
        return not self.failed and not self.quarantined


class Tally:
    """Sums that grow with the number of workers, not of cells."""

    def __init__(self) -> None:
        self.done = self.slots = self.stored = 0
        self.cross: dict[str, float] | None = None
        self._workers: dict[str, dict[str, Any]] = {}
        self._losses: list[dict[str, Any]] = []
        self._lost = 0
        self._clock = time.process_time()

    def folded(self, told: Folded) -> None:
        """A receipt that came in."""
        if told.status != DONE:
            return
        self.done, self.slots, self.stored = self.done + 1, self.slots + told.slots, self.stored + told.stored
        row = self._row(told.worker)
        row["cells"], row["bytes"] = row["cells"] + 1, row["bytes"] + told.stored

    def report(self, report: Report) -> None:
        """A batch that came back."""
        row = self._row(report.worker)
        for name in ("passes", "nodes", "seconds", "skipped", "loads"):
            row[name] += getattr(report, name)
        row |= {"host": report.host, "peak_bytes": report.peak_bytes}

    def loss(self, at: str, why: str, cells: list[Index]) -> None:
        """A batch that was lost with its worker, or raised."""
        self._lost += 1
        if len(self._losses) < KEPT_LOSSES:
            self._losses.append({"at": at, "why": why, "cells": len(cells), "first": cells[0]})

    def compared(self, apart: Difference) -> None:
        """One cell of a cross-check."""
        most = self.cross or {"cells": 0, "attention": math.nan, "logprob": math.nan, "kl": math.nan}
        self.cross = {"cells": most["cells"] + 1} | {
            name: larger(most[name], getattr(apart, name)) for name in ("attention", "logprob", "kl")
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a worker process."""
        return [dict(row) for row in self._workers.values()]

    def record(self) -> dict[str, Any]:
        """What the run log says of it."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "done": self.done,
            "slots": self.slots,
            "bytes": self.stored,
            "workers": self.rows(),
            "batches_lost": self._lost,
            "losses": self._losses,
            "cross_check": finite(self.cross),
            "driver": {
                "cpu_seconds": round(time.process_time() - self._clock, 3),
                "peak_bytes": peak if sys.platform == "darwin" else peak * 1024,
            },
        }

    def _row(self, worker: str) -> dict[str, Any]:
        empty = {"worker": worker, "host": "", "cells": 0, "skipped": 0, "passes": 0, "nodes": 0}
        return self._workers.setdefault(
            worker, empty | {"seconds": 0.0, "bytes": 0, "loads": 0, "peak_bytes": 0}
        )
