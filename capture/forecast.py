"""What a run would come to, told before it: work, bytes, memory, time. Loads no weights, creates nothing."""

import heapq
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dataset import replacing
from ..dataset.cell import Cell
from ..dataset.cube import Cube
from ..dataset.estimate import Weight, estimate
from ..dataset.fit import must_agree, must_fit
from ..dataset.grid import Grid
from ..dataset.place import Place
from ..dataset.schema import DONE, FAILED, QUARANTINED
from ..dataset.store import MOST_TRIES, Task
from ..errors import CubeError
from ..words import how_many, in_bytes, in_time
from . import calibration, cluster
from . import model as models
from .calibration import Calibration
from .effort import Asked, history
from .plan import PROCESS, Plan, planned


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of a grid; prompt tokens and nodes are tokens fed."""

    done: int  # cells
    given_up: int  # cells that failed too often or are quarantined
    left: int  # cells
    experiments: int  # of those left, that can differ from each other
    prompt_asked: int  # over all cells left
    prompt_fed: int  # once for all that share it in a batch
    nodes_at_most: int
    nodes_expected: int | None  # with sets as wide as the calibration's


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would come to: bytes and seconds."""

    cells: int
    work: Work
    weights: dict[str, Weight]  # of the whole grid by variable; at most, where there is no calibration
    disk_free: int | None  # where the cube will lie; None: not on a disk of this machine
    plan: Plan | None  # None: nothing is left to do
    seconds: float | None  # None: unknown
    by_max_tokens: dict[int, float]  # seconds of the cells of each value, run alone; where it is an axis
    calibration: Calibration | None

    @property
    def raw(self) -> int:
        """Bytes of the whole grid as plain float32."""
        return sum(each.raw for each in self.weights.values())

    @property
    def stored(self) -> int:
        """Bytes of the whole grid in the cube."""
        return sum(each.stored for each in self.weights.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may go wrong, a line each."""
        coming = round(self.stored * self.work.left / self.cells)
        if self.disk_free is None or coming <= self.disk_free:
            return ()
        about = "about" if self.calibration else "at most"
        return (
            f"{about} {in_bytes(coming)} will be written, and the disk has {in_bytes(self.disk_free)} free",
        )

    def lines(self) -> dict[str, str]:
        """Label -> text, for people."""
        told = {"left": self._left()}
        if not self.plan:
            return told | {"time": self._time()}
        told |= {
            "unique work": self._unique(),
            "prompts fed": f"{how_many(self.work.prompt_fed, 'token')}, shared by cells that ask for "
            f"{self.work.prompt_asked:,}",
            "raw": self._bytes({name: each.raw for name, each in self.weights.items()}),
            "stored": self._bytes({name: each.stored for name, each in self.weights.items()}),
        }
        if self.disk_free is not None:
            told["disk"] = f"{in_bytes(self.disk_free)} free"
        largest = max(map(len, self.plan.batches))
        told["workers"] = f"{self.plan.workers} on this machine"
        told["batches"] = f"{len(self.plan.batches)}, of {how_many(largest, 'cell')} at most"
        told["memory"] = _memory(self.plan)
        told["time"] = self._time()
        return told | {f"warning {i}": text for i, text in enumerate(self.warnings, 1)}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "cells": self.cells,
            **asdict(self.work),
            "bytes": {name: asdict(each) for name, each in self.weights.items()},
            "raw": self.raw,
            "stored": self.stored,
            "disk_free": self.disk_free,
            "plan": _plain(self.plan) if self.plan else None,
            "seconds": self.seconds,
            "seconds_by_max_tokens": {str(value): each for value, each in self.by_max_tokens.items()},
            "calibration": asdict(self.calibration) if self.calibration else None,
            "warnings": list(self.warnings),
        }

    def _left(self) -> str:
        given_up = f", {self.work.given_up} given up" if self.work.given_up else ""
        return f"{self.work.left} of {how_many(self.cells, 'cell')} ({self.work.done} done{given_up})"

    def _unique(self) -> str:
        told = f"{how_many(self.work.experiments, 'experiment')} that can differ"
        expected = self.work.nodes_expected
        about = "" if expected is None else f", about {expected:,} expected"
        return f"{told}; at most {how_many(self.work.nodes_at_most, 'token')} fed{about}"

    def _bytes(self, kinds: dict[str, int]) -> str:
        parts = ", ".join(f"{name} {in_bytes(value)}" for name, value in kinds.items())
        return f"{'about' if self.calibration else 'at most'} {in_bytes(sum(kinds.values()))} ({parts})"

    def _time(self) -> str:
        if not self.work.left:
            return "nothing is left to do"
        if self.seconds is None or self.calibration is None:
            return "unknown (--calibrate measures it)"
        values = ", ".join(f"{value}: {in_time(each)}" for value, each in self.by_max_tokens.items())
        alone = f"; each max_tokens alone: {values}" if values else ""
        return (
            f"about {in_time(self.seconds)}{alone} (from --calibrate of {self.calibration.date} with "
            f"{self.calibration.grid}: {self.calibration.mean_width:.2f} tokens a set)"
        )


def forecast(
    grid: Grid, where: Any = None, workers: int | str = "auto", batch_size: int | str = "auto"
) -> Forecast:
    """What running a grid into the cube at a path or URL would come to; a run that cannot be is refused."""
    asked, place = Asked.of(grid), None if where is None else Place.at(where)
    longest = max(asked.prompts.values())
    must_fit(grid, asked.facts, longest)
    left, done, given_up = _found(asked, place)
    known = calibration.last(asked.facts.sha256)

    def timed(cells: Sequence[Cell]) -> float | None:
        return _seconds(asked, known, _planned(asked, cells, workers, batch_size)) if known else None

    plan = _planned(asked, left, workers, batch_size) if left else None
    values = [value for value in grid.axes.get("max_tokens", ()) if known]
    parts = {value: [cell for cell in left if cell.max_tokens == value] for value in values}
    return Forecast(
        cells=len(grid.cells()),
        work=_work(asked, left, done, given_up, plan, known),
        weights=estimate(grid, asked.facts, longest, known.mean_width if known else None),
        disk_free=_disk(place) if place else None,
        plan=plan,
        seconds=timed(left) if left else 0.0,
        by_max_tokens={value: timed(cells) or 0.0 for value, cells in parts.items() if cells},
        calibration=known,
    )


def _found(asked: Asked, place: Place | None) -> tuple[list[Cell], int, int]:
    """Cells to run; and how many are done, and given up, in the cube that is there."""
    cells = asked.grid.cells()
    cube = None if place is None else Cube.find(place)
    if place is not None:
        replacing.refuse_strangers(place)
    if cube is None:
        return list(cells), 0, 0
    must_agree(cube, asked.grid, asked.facts)
    status, attempts = cube.status(), cube.read("attempts")
    left, done = [], 0
    for cell in cells:
        index = None
        with suppress(CubeError):  # the grid extends the cube
            index = cube.index(cell)
        if index is None:
            left.append(cell)
        elif status[index] == DONE:
            done += 1
        elif status[index] != QUARANTINED and (status[index] != FAILED or attempts[index] < MOST_TRIES):
            left.append(cell)
    return left, done, len(cells) - len(left) - done


def _planned(asked: Asked, cells: Sequence[Cell], workers: int | str, batch_size: int | str) -> Plan:
    """How a run would spread these cells over this machine."""
    return planned(
        [Task("", "", (i,), cell, 1) for i, cell in enumerate(cells)],
        asked.needs,
        weights=models.weight_bytes(asked.grid.model),
        free=cluster.free_here(),
        slots=cluster.devices() or _cores(),
        workers=workers,
        batch_size=batch_size,
    )


def _work(
    asked: Asked, left: Sequence[Cell], done: int, given_up: int, plan: Plan | None, known: Calibration | None
) -> Work:
    batches = _cells(plan) if plan else []
    shared = [{(cell.prompt, cell.ablate) for cell in cells} for cells in batches]
    width = known.mean_width if known else None
    most, expected = (
        round(sum(asked.effort(cells, each).nodes for cells in batches)) for each in (None, width)
    )
    return Work(
        done=done,
        given_up=given_up,
        left=len(left),
        experiments=len(set(map(history, left))),
        prompt_asked=sum(asked.prompts[cell.prompt] for cell in left),
        prompt_fed=sum(asked.prompts[prompt] for trees in shared for prompt, _ in trees),
        nodes_at_most=most,
        nodes_expected=expected if known else None,
    )


def _seconds(asked: Asked, known: Calibration, plan: Plan) -> float:
    """From the command to its end: each worker takes the next batch when it is through with one."""
    crowd = 1.0 if cluster.devices() else max(1.0, plan.workers * known.threads / _cores())
    free_at = [known.loading] * plan.workers
    for cells in _cells(plan):
        heapq.heapreplace(free_at, free_at[0] + known.seconds(asked.effort(cells, known.mean_width)))
    folding = known.per_fold * sum(map(len, plan.batches))
    return known.starting + crowd * max(free_at) + folding


def _cells(plan: Plan) -> list[list[Cell]]:
    return [[task.cell for task in batch] for batch in plan.batches]


def _cores() -> int:
    return os.cpu_count() or 1


def _disk(place: Place) -> int | None:
    """Bytes free where a cube will lie, None where that is not a disk of this machine."""
    if place.path is None:
        return None
    there: Path = next(each for each in (place.path, *place.path.parents) if each.is_dir())
    return shutil.disk_usage(there).free


def _plain(plan: Plan) -> dict[str, int]:
    return {
        "workers": plan.workers,
        "batches": len(plan.batches),
        "largest_batch": max(map(len, plan.batches)),
        "process_bytes": PROCESS,
        "model_bytes": plan.weights,
        "batch_bytes": plan.largest,
        "worker_bytes": plan.each,
        "free_bytes": plan.free,
    }


def _memory(plan: Plan) -> str:
    """What all workers may come to, as a sum."""
    parts = (
        f"process {in_bytes(PROCESS)}, model {in_bytes(plan.weights)}, largest batch {in_bytes(plan.largest)}"
    )
    each = f"{how_many(plan.workers, 'worker')} x {in_bytes(plan.each)} ({parts})"
    return f"{each} = at most {in_bytes(plan.workers * plan.each)}; {in_bytes(plan.free)} free"
