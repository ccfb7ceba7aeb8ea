"""Run a grid into a cube on Dask workers: batch by batch, until nothing is left to try."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dask
import psutil
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed

from ..dataset.grid import Cell, Grid
from ..dataset.schema import DONE, FAILED, QUARANTINED
from ..dataset.store import Driver, Task
from ..errors import BadInput, LeaseError
from . import model as models
from . import worker
from .memory import needed
from .plan import batches
from .wanted import Wanted
from .worker import Report

MOST_KILLS = 2  # workers that a cell may take down while alone
SHARE = 0.6  # of the free memory that batches may plan with; the rest is for models and what others do

Progress = Callable[[int, int, str], None]  # cells in, cells asked, what there is to say


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to."""

    cells: int  # this run had to do
    done: int
    failed: dict[str, str] = field(default_factory=dict)  # cells in words, and why
    quarantined: dict[str, str] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()

    @property
    def ok(self) -> bool:
        """Everything that was to be done is done."""
        return not self.failed and not self.quarantined


def run(
    grid: Grid,
    where: Any,
    *,
    workers: int | str = "auto",
    batch_size: int | str = "auto",
    scheduler: str | None = None,
    overwrite: bool = False,
    retry_quarantined: bool = False,
    limit: int | None = None,
    progress: Progress = lambda done, asked, told: None,
) -> Summary:
    """Run what is left of a grid into the cube at a path or URL; the same call goes on where one stopped."""
    facts, reader = models.facts(grid.model), models.tokenizer(grid.model)
    prompts = {text: len(reader.prompt_tokens(text, grid.max_sets)) for text in grid.prompt_texts}
    wanted = Wanted.of(grid.capture, grid.storage, facts)

    def needs(tasks: Sequence[Task]) -> int:
        cells = [task.cell for task in tasks]
        return needed(facts, cells, [prompts[cell.prompt] for cell in cells], wanted)

    with Driver(where, grid, facts, max(prompts.values()), overwrite=overwrite) as driver:
        tasks = driver.todo(quarantined=retry_quarantined)[:limit]
        if not tasks:
            return Summary(0, 0)
        count = _count(workers, len(tasks))
        room = int(SHARE * psutil.virtual_memory().available / count)
        most = None if batch_size == "auto" else _number("batch_size", batch_size)
        made = batches(tasks, needs, room=room, workers=count, most=most)
        with _client(scheduler, count) as client:
            return _Run(driver, client, grid.model, facts.sha256, progress).all(made, count)


class _Run:
    """Batches on their way: as many as there are workers, so that a death takes down only what it ran."""

    def __init__(self, driver: Driver, client: Client, model: str, sha256: str, progress: Progress) -> None:
        self.driver, self.client, self.progress = driver, client, progress
        self.model, self.sha256 = model, sha256
        self.reports: list[Report] = []
        self.kills: dict[tuple[int, ...], int] = {}
        self.status: dict[tuple[int, ...], tuple[int, str]] = {}
        self.open: set[Cell] = set()  # cells that are not through yet

    def all(self, made: Sequence[tuple[Task, ...]], workers: int) -> Summary:
        """Every batch, until nothing is left to try."""
        left, asked = deque(made), sum(map(len, made))
        self.open = {task.cell for batch in made for task in batch}
        running: dict[Future[Any], tuple[Task, ...]] = {}
        coming = as_completed()
        while left or running:
            while len(running) < workers and (batch := self._next(left)):
                future = self.client.submit(
                    worker.compute, self.model, self.sha256, batch, pure=False, resources={"model": 1}
                )
                running[future] = batch
                coming.add(future)
            future = next(coming)
            batch = running.pop(future)
            again = self._came(future, batch)
            left.extend(again)
            self.open -= {task.cell for task in batch} - {task.cell for tasks in again for task in tasks}
            future.release()
            self._fold()
            done = sum(status == DONE for status, _ in self.status.values())
            self.progress(done, asked, "")
        return self._summary(asked)

    def _next(self, left: deque[tuple[Task, ...]]) -> tuple[Task, ...] | None:
        """The next batch whose leaders are in it, or are through."""
        for batch in left:
            here = {task.cell for task in batch}
            leaders = {task.cell.leader for task in batch} - here
            if not leaders & self.open:
                left.remove(batch)
                return batch
        return None

    def _came(self, future: Future[Any], batch: tuple[Task, ...]) -> list[tuple[Task, ...]]:
        """What a batch that has ended leaves to be tried again."""
        error = future.exception()
        if error is None:
            self.reports.append(future.result())
            return []
        if isinstance(error, LeaseError):
            raise error
        if len(batch) > 1:
            return [(task,) for task in sorted(batch, key=lambda task: task.cell.replay is not None)]
        task = batch[0]
        if isinstance(error, KilledWorker):
            self.kills[task.index] = self.kills.get(task.index, 0) + 1
            if self.kills[task.index] < MOST_KILLS:
                return [batch]
            return self._give_up(task, QUARANTINED, f"killed its worker {MOST_KILLS} times while alone")
        return self._give_up(task, FAILED, " ".join(f"{type(error).__name__}: {error}".split()))

    def _give_up(self, task: Task, status: int, reason: str) -> list[tuple[Task, ...]]:
        self.driver.ledger.mark([task.index], status, reason)
        self.status[task.index] = status, reason
        return []

    def _fold(self) -> None:
        for folded in self.driver.fold():
            self.status[folded.index] = folded.status, folded.error

    def _summary(self, asked: int) -> Summary:
        name = self.driver.cube.name
        told = {
            wanted: {name(index): error for index, (status, error) in self.status.items() if status == wanted}
            for wanted in (FAILED, QUARANTINED)
        }
        done = sum(status == DONE for status, _ in self.status.values())
        return Summary(asked, done, told[FAILED], told[QUARANTINED], tuple(self.reports))


def _count(workers: int | str, tasks: int) -> int:
    """How many workers: as asked for, or one a core, and never more than there is work for."""
    if workers == "auto":
        return max(1, min(os.cpu_count() or 1, tasks))
    return _number("workers", workers)


def _number(option: str, given: int | str) -> int:
    if not isinstance(given, int) or given < 1:
        raise BadInput(f"{option}: a number from 1 on, or auto, got {given!r}")
    return given


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Client]:
    """A cluster of processes on this machine, or the one at an address."""
    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # a batch that kills is split, not sent to the next one
        "distributed.worker.multiprocessing-method": "spawn",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port: others may run Dask here too
            silence_logs="CRITICAL",
            resources={"model": 1},
            env={"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", threads)},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
