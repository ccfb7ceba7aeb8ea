"""What a worker does with a batch: one model kept for life, cells into the cube, a small report back."""

import faulthandler
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..dataset.cell import Cell
from ..dataset.cube import Cube
from ..dataset.place import Place
from ..dataset.schema import DONE
from ..dataset.store import Task
from ..dataset.writing import Receipt, receipts
from ..errors import CubeError, NoLeaderError
from . import engine, selftest
from .cluster import cores_of_worker
from .crosscheck import Found, compared
from .experiment import Track
from .model import Model
from .wanted import Wanted

LOADING = 3600.0  # seconds that a model may take to come, from a hub perhaps

_held: dict[tuple[str, str], Model] = {}  # the model of this process, in the one thread that may use it
_loads = 0
_thread = ThreadPoolExecutor(1, "mlx")  # an MLX array belongs to the thread that made it


@dataclass(frozen=True, slots=True)
class Job:
    """What all batches of a run have in common."""

    model: str
    sha256: str  # of its files, as the driver knows them
    patience: float = 300.0  # seconds without a forward pass after which a worker is taken for hung


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of a batch, for the run log: small, whatever the cells weigh."""

    worker: str
    host: str
    cells: int
    skipped: int  # done already: a scheduler that lost a worker hands tasks out twice
    passes: int
    nodes: int
    seconds: float
    loads: int  # models loaded for it
    peak_bytes: int
    found: tuple[Found, ...] = ()  # by a cross-check


def compute(job: Job, tasks: Sequence[Task]) -> Report:
    """Run what is left of a batch into the cube."""
    return _in_thread(_compute, job, tasks)


def compare(job: Job, tasks: Sequence[Task]) -> Report:
    """Capture done cells again, one at a time, and hold them against the cube."""
    return _in_thread(_compare, job, tasks)


def _in_thread(work: Callable[..., Report], job: Job, tasks: Sequence[Task]) -> Report:
    cores = cores_of_worker()  # known to this thread only
    return _thread.submit(work, job, tasks, cores).result()


def _compute(job: Job, tasks: Sequence[Task], cores: int | None) -> Report:
    began, loads = time.perf_counter(), _loads
    left = [task for task in tasks if not task.done()]
    work = engine.Work(0, 0, 0.0)
    if left:
        loaded = _loaded(job, cores)
        with _watched(job.patience) as alive:
            writers = [task.writer() for task in left]
            grid = writers[0].cube.grids[0]  # what is captured, and how it is stored, is one in a cube
            wanted = Wanted.of(grid.capture, grid.storage, loaded.facts)
            cells, tracks = [task.cell for task in left], _tracks(left)
            work = engine.capture(loaded, cells, writers, wanted, tracks=tracks, worker=name(), alive=alive)
    return _report(began, loads, work, len(left), len(tasks) - len(left))


def _compare(job: Job, tasks: Sequence[Task], cores: int | None) -> Report:
    began, loads = time.perf_counter(), _loads
    loaded, cube = _loaded(job, cores), Cube.open(Place.at(tasks[0].url))
    work, found = engine.Work(0, 0, 0.0), []
    with _watched(job.patience) as alive:
        for task in tasks:
            one, more = compared(loaded, cube, task.index, alive)
            found.append(one)
            work += more
    return _report(began, loads, work, len(tasks), 0, tuple(found))


def name() -> str:
    """Who computes here."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _report(
    began: float,
    loads: int,
    work: engine.Work,
    cells: int,
    skipped: int,
    found: tuple[Found, ...] = (),
) -> Report:
    seconds = time.perf_counter() - began
    return Report(
        worker=name(),
        host=socket.gethostname(),
        cells=cells,
        skipped=skipped,
        passes=work.passes,
        nodes=work.nodes,
        seconds=seconds,
        loads=_loads - loads,
        peak_bytes=_peak(),
        found=found,
    )


@contextmanager
def _watched(patience: float) -> Iterator[Callable[[], None]]:
    """End this process, saying where it was, if the function that is handed out is not called for so long.

    The clock runs outside of Python: a hang that holds the interpreter is ended too.
    """

    def alive() -> None:
        faulthandler.dump_traceback_later(patience, exit=True, file=sys.__stderr__ or sys.stderr)

    alive()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()


def _loaded(job: Job, cores: int | None) -> Model:
    """The job's model; one that is held of other files, or of another run, makes room for it first."""
    global _loads
    wanted = job.model, job.sha256
    if wanted not in _held:
        _held.clear()
        with _watched(max(job.patience, LOADING)):
            loaded = selftest.load(job.model, cores)
        _loads += 1
        if loaded.facts.sha256 != job.sha256:
            raise CubeError(
                f"model {job.model} on {socket.gethostname()} has other files than the driver's "
                f"({loaded.facts.sha256[:12]}, not {job.sha256[:12]})"
            )
        _held[wanted] = loaded
    return _held[wanted]


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
    if cube.array("status")[index] == DONE:  # its receipt was folded between the two looks
        return cube.row(index)
    raise NoLeaderError(f"{cube.name(index)}, which this cell follows, is not done")


def _peak() -> int:
    """The most memory this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
