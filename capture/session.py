"""One run from the first worker to the last receipt: the only one that writes the cube's index."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from ..dataset.cube import Index
from ..dataset.runlog import RunLog, now
from ..dataset.schema import CHECKS, DONE, FAILED, PENDING, QUARANTINED
from ..dataset.store import Driver, Task
from ..errors import TempoError
from . import cluster, worker
from . import model as models
from .cluster import Workers
from .crew import Came, Crew, GivenUp, Lost, Waits
from .crosscheck import sample
from .options import Options
from .plan import Needs, Plan, planned
from .progress import State, Watch
from .tally import Summary, Tally

FOLD = 2.0  # seconds between looks for receipts
LOG = 10.0  # seconds between writings of the run log
ROUNDS = 2  # a cell whose receipt was not believed is done again in the same run
MOST_ELASTIC = 32  # cells in a batch where workers may join later and want some
CHECKED_TOGETHER = 8  # cells of a cross-check that a worker is given at a time


class Session:
    """One run of one grid into one cube."""

    def __init__(
        self, driver: Driver, job: worker.Job, options: Options, needs: Needs, watch: Watch, began: float
    ) -> None:
        self.driver, self.job, self.options, self.needs, self.watch = driver, job, options, needs, watch
        self.tally = Tally()
        self.asked = [index for index, _ in driver.cube.asked(driver.grid)]
        self.before = {index for index in self.asked if self._is(index, DONE)}
        self.state = State("starting", 0, 0, 0, 0, 0, 0, 0.0, "", 0.0)
        self.began, self._folded_at, self._logged_at = began, 0.0, 0.0
        self.stopped = False
        self.checked: set[Index] = set()
        self.waiting: set[Index] = set()  # for a leader that was given up
        self.unchecked: dict[Index, str] = {}  # done cells whose second capture went wrong
        self.doubted: dict[Index, str] = {}  # cells whose receipt was not believed, and why
        self.log: RunLog | None = None

    def go(self, tasks: list[Task]) -> None:
        """Capture these cells, then cross-check; without anything to do no worker is started."""
        tasks = self._able(tasks)
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

    def _able(self, tasks: list[Task]) -> list[Task]:
        """Those whose leader is done, or among them; others wait until it is."""
        here, index = {task.cell for task in tasks}, self.driver.cube.index

        def able(task: Task) -> bool:
            leader = task.cell.leader
            return leader is None or leader in here or self._is(index(leader), DONE)

        self.waiting = {task.index for task in tasks if not able(task)}
        if self.waiting:
            self._say(
                "starting", f"{len(self.waiting)} cells wait for the ones that they follow, not done yet"
            )
        return [task for task in tasks if able(task)]

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
            with cluster.reaching():
                if not there.client.nthreads():
                    self._say("waiting", f"no worker has joined {asked.scheduler} yet; waiting")
                there.client.wait_for_workers(1)
                slots, free = cluster.free_there(there.client)
            yield there, spread(free=free, slots=slots, workers="auto", fair=MOST_ELASTIC)

    def _capture(self, there: Workers, batches: Sequence[tuple[Task, ...]]) -> None:
        crew = self._crew(there, worker.compute)
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
                case Waits(task, why):
                    self.waiting.add(task.index)
                    self._say("running", f"{name(task.index)}: {why}; it waits")
            self._look(crew, force=False)
            if self.stopped:
                break
        self._look(crew, force=True)

    def _look(self, crew: Crew, *, force: bool) -> None:
        """Take in receipts and tell how far it is, now and then."""
        if force or time.monotonic() - self._folded_at > FOLD:
            self._fold()
        self.state = replace(
            self.state,
            done=self.tally.done,
            tokens=self.tally.slots,
            stored=self.tally.stored,
            workers=len(crew.workers),
        )
        self._say(self.state.stage)
        self._write_log()

    def _fold(self) -> None:
        for folded in self.driver.fold():
            self.tally.folded(folded)
            if folded.status == FAILED:
                self._failed(folded.index, folded.error)
            elif folded.status == PENDING:
                self.doubted[folded.index] = folded.error
                self._say("running", f"{self.driver.cube.name(folded.index)}: {folded.error}; done again")
        self._folded_at = time.monotonic()

    def _give_up(self, index: Index, status: int, why: str) -> None:
        """Mark a cell, unless it was done before its worker died."""
        self._fold()
        if not self._is(index, DONE):
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
        with cluster.reaching():
            workers = max(1, len(there.client.nthreads()))
        size = max(1, min(CHECKED_TOGETHER, -(-len(tasks) // workers)))
        batches = [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]
        crew = self._crew(there, worker.compare)
        for event in crew.through(batches):
            match event:
                case Came(_, report):
                    self.tally.report(report)
                    self._compared(report)
                case Lost(batch, why):
                    self.tally.loss(now(), why, [task.index for task in batch])
                    self._say("cross-checking", f"{why}; tried again")
                case GivenUp(task, _, why):  # nothing is known to be wrong with what the cube has of it
                    self.unchecked[task.index] = f"cross-check: its second capture went wrong: {why}"
                    self._failed(task.index, self.unchecked[task.index])
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
                self.driver.ledger.mark([each.index], FAILED, each.wrong)
                self._failed(each.index, each.wrong)

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
        return self._is(task.index, PENDING) and task.index not in self.waiting

    def _is(self, index: Index, status: int) -> bool:
        return self.driver.ledger.status_of(index) == status

    def _crew(self, there: Workers, work: Callable[..., worker.Report]) -> Crew:
        return Crew(there, work, self.job, patience=self.job.patience, holds=self.driver.lease.check)

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
        self.log.write(cells=len(self.asked), done_before=len(self.before))
        state = "stopped"
        try:
            yield
            state = "stopped at the first failure" if self.stopped else "finished"
        except KeyboardInterrupt:
            state = "stopped by the user"
            raise
        except BaseException as error:
            state = str(error) if isinstance(error, TempoError) else f"{type(error).__name__}: {error}"
            raise
        finally:
            with suppress(TempoError):  # a full disk, a lost lease: it has been said already
                self._fold()
            with suppress(TempoError):
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
        doubted = {index: why for index, why in self.doubted.items() if status[index] == PENDING}
        for index, why in (self.unchecked | doubted).items():
            gone[FAILED].setdefault(cube.name(index), why)
        done = {index for index in self.asked if status[index] == DONE}
        return Summary(
            where=self.driver.place.url,
            cells=len(self.asked),
            before=len(self.before),
            done=len(done - self.before),
            left=sum(int(status[index] == PENDING) for index in self.asked),
            failed=gone[FAILED],
            quarantined=gone[QUARANTINED],
            seconds=time.monotonic() - self.began,
            tokens=self.tally.slots,
            stored=self.tally.stored,
            workers=tuple(self.tally.rows()),
            cross=self.tally.cross,
        )
