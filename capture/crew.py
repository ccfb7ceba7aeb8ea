"""Batches on workers: one at a time on each, so that it is clear what killed; found by halving."""

import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Future, KilledWorker

from ..dataset.cube import Index
from ..dataset.schema import FAILED, QUARANTINED
from ..dataset.store import Task
from ..errors import DamagedError, LeaseError, NoLeaderError, RunError, TempoError
from .cluster import Workers, reaching
from .plan import halves

MOST_STALLS = 5  # times that a run's workers may think it dead
MOST_KILLS = 2  # workers that a cell may take down while alone
STARTING = 60.0  # seconds that a worker process may take to come up
MEND = 3.0  # seconds between looks whether workers have to be started anew
TICK = 0.5  # seconds after which the crew looks up when nothing comes in

Batch = tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Came:
    """A batch that was done, and what its worker says."""

    batch: Batch
    result: Any


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that was not: its parts are tried again."""

    batch: Batch
    why: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A cell that is not tried again in this run."""

    task: Task
    status: int
    why: str


@dataclass(frozen=True, slots=True)
class Waits:
    """A cell that cannot be tried before the one that it follows is done; nothing is held against it."""

    task: Task
    why: str


Event = Came | Lost | GivenUp | Waits | None  # None: nothing came in since the last look


@dataclass(frozen=True, slots=True)
class _Sent:
    future: Future[Any]
    batch: Batch
    worker: str
    at: float


class Crew:
    """The workers of a cluster at one kind of work: a function of a batch that every worker can import."""

    def __init__(
        self,
        there: Workers,
        work: Callable[..., Any],
        *arguments: Any,
        patience: float,
        holds: Callable[[], None],
    ) -> None:
        self._holds = holds  # raises if this run has lost the cube
        self._client, self._mend, self._ours = there.client, there.mend, there.ours
        self._work, self._arguments, self._patience = work, arguments, patience
        self._mended = self._seen = self._looked = time.monotonic()
        self._stalls, self._ever = 0, False
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._left: deque[Batch] = deque()
        self._sent: dict[str, _Sent] = {}  # by worker
        self._kills: dict[Index, int] = {}
        self._open: set[Any] = set()  # cells that are not through
        self.workers: tuple[str, ...] = ()

    def through(self, batches: Sequence[Batch]) -> Iterator[Event]:
        """Every batch, until nothing is left to try; a leader before those that follow it elsewhere."""
        self._left.extend(batches)
        self._open = {task.cell for batch in batches for task in batch}
        try:
            while self._left or self._sent:
                yield from self._vanished()
                self._send()
                try:
                    yield from self._came(self._ended.get(timeout=TICK))
                except queue.Empty:
                    yield None
        finally:
            for sent in self._sent.values():
                sent.future.release()

    def _send(self) -> None:
        """Give every idle worker the next batch that need not wait for a leader."""
        for worker in self.workers:
            if worker in self._sent or (batch := self._next()) is None:
                continue
            future = self._client.submit(
                self._work, *self._arguments, batch, pure=False, workers=[worker], allow_other_workers=False
            )
            self._sent[worker] = _Sent(future, batch, worker, time.monotonic())
            future.add_done_callback(self._ended.put)

    def _next(self) -> Batch | None:
        for batch in self._left:
            here = {task.cell for task in batch}
            if not ({task.cell.leader for task in batch} - here) & self._open:
                self._left.remove(batch)
                return batch
        return None

    def _vanished(self) -> Iterator[Event]:
        """Look who is there; what was on a worker that is no more is lost, though no error says so."""
        with reaching():
            if self._client.status != "running":
                raise ConnectionError(self._client.status)
        if self.workers and time.monotonic() - self._looked < TICK:
            return
        self._looked = time.monotonic()
        with reaching():
            self.workers = tuple(self._client.nthreads())
        now = time.monotonic()
        if self.workers:
            self._seen, self._ever = now, True
        elif self._ours and now - self._seen > (max(self._patience, STARTING) if self._ever else STARTING):
            raise RunError(f"no worker could be kept alive for {now - self._seen:.0f} s")
        if now - self._mended > MEND:
            self._mend()
            self._mended = now
        for worker in [worker for worker in self._sent if worker not in self.workers]:
            sent = self._sent[worker]
            if sent.future.status == "pending":
                del self._sent[worker]
                sent.future.cancel()
                yield from self._died(sent, 0)

    def _came(self, future: Future[Any]) -> Iterator[Event]:
        sent = next((sent for sent in self._sent.values() if sent.future is future), None)
        if sent is None:
            return  # of a worker that vanished: it was taken for lost already
        with reaching():
            error = future.exception()
            result = None if error else future.result()
        del self._sent[sent.worker]
        if isinstance(error, KilledWorker):
            yield from self._died(sent, int((error.last_worker.metrics or {}).get("memory", 0)))
        elif error is not None:
            yield from self._raised(sent.batch, error)
        else:
            self._open -= {task.cell for task in sent.batch}
            yield Came(sent.batch, result)
        future.release()

    def _died(self, sent: _Sent, held: int) -> Iterator[Event]:
        self._looked = 0.0  # who died must be sent nothing more
        seconds = time.monotonic() - sent.at
        hung = f": no forward pass for {self._patience:.0f} s" if seconds > self._patience else ""
        memory = f", holding {held / 1e9:.2f} GB" if held else ""
        why = f"its worker died after {seconds:.0f} s{memory}{hung}"
        if len(sent.batch) > 1:
            yield from self._split(sent.batch, why)
            return
        (task,) = sent.batch
        self._kills[task.index] = self._kills.get(task.index, 0) + 1
        if self._kills[task.index] < MOST_KILLS:
            self._left.appendleft(sent.batch)
            yield Lost(sent.batch, why)
        else:
            last = why.removeprefix("its worker died ")
            yield from self._give_up(
                task, QUARANTINED, f"killed its worker {MOST_KILLS} times while alone, the last time {last}"
            )

    def _raised(self, batch: Batch, error: BaseException) -> Iterator[Event]:
        if isinstance(error, LeaseError):
            # a driver that stood still for a while is thought dead by workers, and is not
            self._holds()
            self._stalls += 1
            if self._stalls <= MOST_STALLS:
                self._left.appendleft(batch)
                yield Lost(batch, "the driver stood still, and its worker wrote nothing")
                return
        waits = isinstance(error, NoLeaderError)
        if isinstance(error, TempoError) and not waits and not isinstance(error, DamagedError):
            raise error  # it is not about a cell: the disk, the lease, the model
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if len(batch) > 1:
            yield from self._split(batch, why)
        elif waits:
            self._open.discard(batch[0].cell)
            yield Waits(batch[0], str(error))
        else:
            yield from self._give_up(batch[0], FAILED, why)

    def _split(self, batch: Batch, why: str) -> Iterator[Event]:
        """Both halves next: the one that is not to blame loses nothing, the other is halved again."""
        self._left.extendleft(reversed(halves(batch)))
        yield Lost(batch, why)

    def _give_up(self, task: Task, status: int, why: str) -> Iterator[Event]:
        self._open.discard(task.cell)
        yield GivenUp(task, status, why)
