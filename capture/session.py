"""One run from the first worker to the last receipt: the only one that writes the cube's index."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from ..dataset.cube import Index
from ..dataset.grid import Grid
from ..dataset.runlog import RunLog, now
from ..dataset.schema import CHECKS, DONE, FAILED, PENDING, QUARANTINED
from ..dataset.store import Driver, Task
from ..errors import BadInput, CubeError
from . import cluster, worker
from . import model as models
from .cluster import Workers
from .crew import Came, Crew, GivenUp, Lost
from .crosscheck import sample
from .plan import Needs, Plan, planned
from .progress import State, Watch
from .tally import Summary, Tally

FOLD = 2.0  # seconds between looks for receipts
LOG = 10.0  # seconds between writings of the run log
ROUNDS = 2  # a cell whose receipt was not believed is done again in the same run
MOST_ELASTIC = 32  # cells in a batch where workers may join later and want some
CHECKED_TOGETHER = 8  # cells of a cross-check that a worker is given at a time


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is to be made; nothing of it changes what is captured."""

    workers: int | str
    batch_size: int | str
    scheduler: str | None
    limit: int | None
    cross_check: float
    fail_fast: bool
    patience: float

    def check(self, grid: Grid) -> None:
        """Refuse what cannot be, before anything is made."""
        if self.limit is not None and (isinstance(self.limit, bool) or self.limit < 0):
            raise BadInput(f"limit: a number of cells from 0 on, got {self.limit!r}")
        if not 0 <= self.cross_check <= 1:
            raise BadInput(f"cross_check: a share of the cells from 0 to 1, got {self.cross_check!r}")
        if self.patience <= 0:
            raise BadInput(f"patience: seconds, more than 0, got {self.patience!r}")
        if self.cross_check and not grid.capture.attention and not grid.capture.logits:
            raise BadInput("cross_check: compares attention and logits, and this grid captures neither")


class Session:
    """One run of one grid into one cube."""

    def __init__(
        self, driver: Driver, job: worker.Job, options: Options, needs: Needs, watch: Watch, began: float
    ) -> None:
        self.driver, self.job, self.options, self.needs, self.watch = driver, job, options, needs, watch
        self.tally = Tally()
        self.asked = [index for index, _ in driver.cube.asked(driver.grid)]
        self.before = self._count(DONE)
        self.state = State("starting", 0, 0, 0, 0, 0, 0, 0.0, "", 0.0)
        self.began, self._folded_at, self._logged_at = began, 0.0, 0.0
        self.stopped = False
        self.checked: set[Index] = set()
        self.log: RunLog | None = None

    def go(self, tasks: list[Task]) -> None:
        """Capture these cells, then cross-check; without anything to do no worker is started."""
        self.state = replace(self.state, asked=len(tasks))
        if not (work := tasks or self._unchecked()):
            return
        with self._logged(), self._workers(work) as (there, plan):
            self.state = replace(self.state, dashboard=cluster.dashboard(there))
            for _ in range(ROUNDS):
                if tasks and not self.stopped:
                    self._capture(there, plan.batches)
                    mine = {task.index for task in tasks}
                    tasks = [
                        task for task in self.driver.todo() if task.index in mine and self._pending(task)
                    ]
                    plan = replace(plan, batches=tuple((task,) for task in tasks))
            if not self.stopped and (again := self._unchecked()):
                self._cross_check(there, again)

    @contextmanager
    def _workers(self, tasks: list[Task]) -> Iterator[tuple[Workers, Plan]]:
        """Workers for these tasks, and how the tasks are spread over them."""
        asked, devices = self.options, cluster.devices()
        spread = partial(
            planned,
            tasks,
            self.needs,
            weights=models.weight_bytes(self.job.model),
            batch_size=asked.batch_size,
        )
        self._say("starting")
        if asked.scheduler is None:
            slots = devices or os.cpu_count() or 1
            plan = spread(free=cluster.free_here(), slots=slots, workers=asked.workers)
            with cluster.local(plan.workers, devices, asked.patience) as there:
                yield there, plan
            return
        with cluster.remote(asked.scheduler) as there:
            if not there.client.nthreads():
                self._say("waiting", f"no worker has joined {asked.scheduler} yet; waiting")
            cluster.wait_for_one(there.client)
            slots, free = cluster.free_there(there.client)
            yield there, spread(free=free, slots=slots, workers="auto", fair=MOST_ELASTIC)

    def _capture(self, there: Workers, batches: Sequence[tuple[Task, ...]]) -> None:
        crew = Crew(there, worker.compute, self.job, patience=self.job.patience)
        self._say("running")
        for event in crew.through(batches):
            name = self.driver.cube.name
            match event:
                case Came(_, report):
                    self.tally.report(report)
                case Lost(batch, why):
                    cells = f"{len(batch)} cells" if len(batch) > 1 else name(batch[0].index)
                    self.tally.loss(now(), why, [task.index for task in batch])
                    self._say("running", f"{cells}: {why}; tried again")
                case GivenUp(task, status, why):
                    self._give_up(task.index, status, why)
            self._look(crew, force=False)
            if self.stopped:
                break
        self._look(crew, force=True)

    def _look(self, crew: Crew, *, force: bool) -> None:
        """Take in receipts and tell how far it is, now and then."""
        if force or time.monotonic() - self._folded_at > FOLD:
            for folded in self.driver.fold():
                self.tally.folded(folded)
                if folded.status == FAILED:
                    self._failed(folded.index, folded.error)
                elif folded.status == PENDING:
                    self._say("running", f"{self.driver.cube.name(folded.index)}: {folded.error}; done again")
            self._folded_at = time.monotonic()
        self.state = replace(
            self.state,
            done=self.tally.done,
            tokens=self.tally.slots,
            stored=self.tally.stored,
            workers=len(crew.workers),
        )
        self._say(self.state.stage)
        self._write_log()

    def _give_up(self, index: Index, status: int, why: str) -> None:
        self.driver.ledger.mark([index], status, why)
        self._failed(index, why)

    def _failed(self, index: Index, why: str) -> None:
        self.state = replace(self.state, failed=self.state.failed + 1)
        self.stopped |= self.options.fail_fast
        self._say(self.state.stage, f"{self.driver.cube.name(index)}: {why}")

    def _cross_check(self, there: Workers, tasks: list[Task]) -> None:
        """Capture a sample again and put the differences into the cube; a cell that differs has failed."""
        self.state = replace(self.state, asked=len(tasks), done=0)
        self._say("cross-checking")
        size = max(1, min(CHECKED_TOGETHER, -(-len(tasks) // max(1, len(there.client.nthreads())))))
        batches = [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]
        crew = Crew(there, worker.compare, self.job, patience=self.job.patience)
        for event in crew.through(batches):
            match event:
                case Came(_, report):
                    self.tally.report(report)
                    self._compared(report)
                case Lost(_, why):
                    self._say("cross-checking", f"{why}; tried again")
                case GivenUp(task, status, why):
                    self._give_up(task.index, status, f"in its second capture: {why}")
            self.state = replace(self.state, workers=len(crew.workers), done=len(self.checked))
            self._say("cross-checking")
            self._write_log()
            if self.stopped:
                break

    def _compared(self, report: worker.Report) -> None:
        self.driver.ledger.set({each.index: {"check_value": each.check_value} for each in report.found})
        for each in report.found:
            self.checked.add(each.index)
            self.tally.compared(each.apart)
            if each.wrong:
                self._give_up(each.index, FAILED, each.wrong)

    def _unchecked(self) -> list[Task]:
        """Cells of the cross-check's sample that are done and have not been captured again yet."""
        chosen = sample(self.asked, self.options.cross_check)
        if not chosen:
            return []
        cube, status = self.driver.cube, self.driver.ledger.status()
        compared = [i for i, check in enumerate(CHECKS) if check.startswith("cross_")]
        fresh = np.isnan(cube.read("check_value")[..., compared]).all(axis=-1)
        return [
            Task(self.driver.place.url, self.driver.lease.token, index, cube.cell(index), 1)
            for index in chosen
            if status[index] == DONE and fresh[index]
        ]

    def _pending(self, task: Task) -> bool:
        return bool(self.driver.ledger.status()[task.index] == PENDING)

    def _count(self, status: int) -> int:
        found = self.driver.ledger.status()
        return sum(int(found[index] == status) for index in self.asked)

    def _say(self, stage: str, news: str = "") -> None:
        seconds = time.monotonic() - self.began
        self.state = replace(self.state, stage=stage, seconds=seconds, memory=cluster.memory_used())
        self.watch(replace(self.state, news=news))

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Keep the run log while this goes on, also of a run that ends badly."""
        driver = self.driver
        self.log = RunLog(
            driver.place, driver.lease.token, grid=driver.grid.name, options=asdict(self.options)
        )
        self.log.write(cells=len(self.asked), done_before=self.before)
        state = "stopped"
        try:
            yield
            state = "stopped at the first failure" if self.stopped else "finished"
        except BaseException as error:
            state = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise
        finally:
            with suppress(CubeError):  # a full disk has said so already
                self.log.write(state=state, ended=now(), **self.tally.record())

    def _write_log(self) -> None:
        if self.log and time.monotonic() - self._logged_at > LOG:
            self.log.write(**self.tally.record())
            self._logged_at = time.monotonic()

    def summary(self) -> Summary:
        """What all of it came to."""
        cube, status = self.driver.cube, self.driver.ledger.status()
        errors = cube.read("error") if np.isin(status, (FAILED, QUARANTINED)).any() else None
        gone: dict[int, dict[str, str]] = {FAILED: {}, QUARANTINED: {}}
        for index in self.asked:
            if errors is not None and status[index] in gone:
                gone[int(status[index])][cube.name(index)] = str(errors[index])
        return Summary(
            where=self.driver.place.url,
            cells=len(self.asked),
            before=self.before,
            done=self._count(DONE) - self.before,
            left=self._count(PENDING),
            failed=gone[FAILED],
            quarantined=gone[QUARANTINED],
            seconds=time.monotonic() - self.began,
            tokens=self.tally.slots,
            stored=self.tally.stored,
            workers=tuple(self.tally.rows()),
            cross=self.tally.cross,
        )
