"""What a worker does: one model kept for its lifetime, one batch of cells at a time, a small report back."""

import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..dataset.cell import Cell
from ..dataset.cube import Cube
from ..dataset.place import Place
from ..dataset.schema import DONE
from ..dataset.store import Task
from ..dataset.writing import Receipt, receipts
from ..errors import CubeError
from . import engine, selftest
from .experiment import Track
from .model import Model
from .wanted import Wanted


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of a batch, for the run log: small, whatever the cells weigh."""

    worker: str
    cells: int
    skipped: int  # done already: a scheduler that lost a worker hands tasks out twice
    passes: int
    nodes: int
    seconds: float
    loads: int  # models this process has loaded so far
    peak_bytes: int


_models: dict[str, Model] = {}  # of this process, in the one thread that may use them


def compute(model: str, sha256: str, tasks: Sequence[Task]) -> Report:
    """Run what is left of a batch into the cube; `sha256` is what the driver knows of the model's files."""
    began = time.perf_counter()
    left = [task for task in tasks if not task.done()]
    work = engine.Work(0, 0, 0.0)
    if left:
        loaded = _loaded(model, sha256)
        writers = [task.writer() for task in left]
        grid = writers[0].cube.grids[0]  # what is captured and how it is stored is the same in all of a cube
        wanted = Wanted.of(grid.capture, grid.storage, loaded.facts)
        cells = [task.cell for task in left]
        tracks = _tracks(left)
        work = engine.capture(loaded, cells, writers, wanted, tracks=tracks, worker=name())
    took = time.perf_counter() - began
    return Report(
        name(), len(left), len(tasks) - len(left), work.passes, work.nodes, took, len(_models), _peak()
    )


def give_up(task: Task, reason: str) -> None:
    """Leave word in the cube that this try at a cell went wrong."""
    task.writer().fail(reason, name())


def name() -> str:
    """Who computes here."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _loaded(model: str, sha256: str) -> Model:
    if model not in _models:
        loaded = selftest.load(model)
        if loaded.facts.sha256 != sha256:
            raise CubeError(
                f"model {model} on {socket.gethostname()} has other files than the driver's "
                f"({loaded.facts.sha256[:12]}, not {sha256[:12]})"
            )
        _models[model] = loaded
    return _models[model]


def _tracks(tasks: Sequence[Task]) -> dict[Cell, Track]:
    """Tracks of leaders that are not in the batch: they were asked for in another run, or another batch."""
    here = {task.cell for task in tasks}
    wanted = {task.cell.leader for task in tasks if task.cell.leader} - here
    if not wanted:
        return {}
    cube = Cube.open(Place.at(tasks[0].url))
    return {leader: Track.recorded(_recorded(cube, leader)) for leader in wanted if leader is not None}


def _recorded(cube: Cube, cell: Cell) -> dict[str, Any]:
    """The small arrays of a done cell, from the index or from its receipt."""
    index = cube.index(cell)
    if cube.array("status")[index] == DONE:
        return cube.row(index)
    for stored in receipts(cube.place, index):
        with suppress(ValueError):
            values = Receipt.from_bytes(cube.place.get(stored.key) or b"").values
            if values["status"] == DONE:
                return dict(values)
    raise CubeError(f"{cube.place}: {cube.name(index)} leads others and is not done; run it first")


def _peak() -> int:
    """The most memory this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
