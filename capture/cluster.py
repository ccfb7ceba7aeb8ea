"""Where a run's workers are: processes on this machine, or those of a scheduler at an address."""

import atexit
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any

import dask
import psutil
from distributed import Client, LocalCluster, Status, Worker, WorkerPlugin
from distributed.utils import silence_logging_cmgr

from ..errors import BadInput, RunError

ANSWERS_WITHIN = 10  # seconds that a scheduler has to say that it is there
QUIET = "ignore:resource_tracker"  # for processes that we start: what killed ones held is freed, and told of
SILENCE = 30.0  # seconds without a heartbeat, at the least, before a worker is taken for dead


class Setup(WorkerPlugin):
    """What a worker process needs before its first batch; the model itself is loaded by that batch.

    An MLX array belongs to the thread that made it, so nothing of the model may happen here.
    """

    name = "tempocube"

    def __init__(self, *, local: bool, devices: int) -> None:
        self.local, self.devices = local, devices

    def setup(self, worker: Worker) -> None:
        """Before any work, also in a worker that joins later or is started again."""
        if not self.local:
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal; the driver tells us
        atexit.register(os._exit, 0)  # MLX's threads can abort a process that takes itself apart
        if self.devices > 1:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(int(worker.name) % self.devices))


@dataclass(frozen=True, slots=True)
class Workers:
    """A way to the workers, and what to call now and then so that those that died are replaced."""

    client: Client
    mend: Callable[[], None] = lambda: None
    ours: bool = False  # started by this run: if none is there, none will come


@contextmanager
def local(workers: int, devices: int, patience: float) -> Iterator[Workers]:
    """So many processes on this machine, which share its cores."""
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # a batch that kills is split, not sent to the next one
        "distributed.scheduler.worker-ttl": f"{max(patience, SILENCE):.0f} s",
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.comm.timeouts.connect": "60 s",  # a machine under load is slow to start processes
        "distributed.deploy.lost-worker-timeout": "5 s",  # to come back in, before it is started anew
        # a file in the user's folder that is called like one of Python's own must not take its place
        "distributed.nanny.pre-spawn-environ": dask.config.get("distributed.nanny.pre-spawn-environ")
        | {"PYTHONSAFEPATH": "1"},
    }
    if QUIET not in sys.warnoptions:
        sys.warnoptions.append(QUIET)
    with (
        _without_main(),
        _environment_kept(),
        dask.config.set(settings),
        _interrupts_held() as heard,
        LocalCluster(
            n_workers=0,  # one that dies while it starts would take the cluster with it
            threads_per_worker=threads(workers),
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port: others may run Dask here too
            silence_logs="CRITICAL",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Setup(local=True, devices=devices))
        cluster.scale(workers)
        heard()
        yield Workers(client, partial(cluster.sync, _mend, cluster, workers), ours=True)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Dask hands variables to its workers by setting them here, and leaves them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    """No Ctrl-C in the threads that are started here, and so in the processes that these start.

    A terminal sends it to all of them, and one that is just coming up would die with a traceback. What is
    handed out ends that for the thread that began it.
    """
    resource_tracker.ensure_running()  # where it is started, it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def heard() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield heard
    finally:
        heard()


def threads(workers: int) -> int:
    """BLAS threads of each of so many workers: what OPENBLAS_NUM_THREADS says, or its share of the cores."""
    said = os.environ.get("OPENBLAS_NUM_THREADS", "")
    if said and not said.isdecimal():
        raise BadInput(f"OPENBLAS_NUM_THREADS: must be a number of threads, got {said!r}")
    return int(said or 0) or max(1, (os.cpu_count() or 1) // workers)


@contextmanager
def _without_main() -> Iterator[None]:
    """Spawned processes would run the user's script anew, guard or no guard; ours need nothing of it."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


async def _mend(cluster: LocalCluster, workers: int) -> None:
    """Start anew whom Dask has given up: its own restarts end with a worker that dies while it starts."""
    given_up = (Status.closed, Status.failed)
    for name in [name for name, nanny in cluster.workers.items() if nanny.status in given_up]:
        del cluster.workers[name]
    cluster.scale(workers)


@contextmanager
def remote(scheduler: str) -> Iterator[Workers]:
    """The workers, now or later, of a scheduler that somebody has started."""
    with ExitStack() as stack:
        for logger in ("distributed", "distributed.client"):  # that it went away is told in one line
            stack.enter_context(silence_logging_cmgr(logging.CRITICAL, logger))
        try:
            client = stack.enter_context(Client(scheduler, timeout=ANSWERS_WITHIN))
        except (OSError, ValueError) as error:
            raise BadInput(f"--scheduler: no scheduler answers at {scheduler} ({error})") from error
        try:
            client.register_plugin(Setup(local=False, devices=0))
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"a worker of {scheduler} cannot work: {why}; each needs tempocube") from error
        yield Workers(client)


def devices() -> int:
    """GPUs that MLX can use here."""
    import mlx.core as mx  # late: whoever only asks for the cluster's workers needs no MLX

    return int(mx.device_count(mx.gpu))


def free_here() -> int:
    """Bytes of memory that are free on this machine."""
    return int(psutil.virtual_memory().available)


@contextmanager
def reaching() -> Iterator[None]:
    """Whatever asks a scheduler: it may go away at any moment, also between two answers."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise RunError("the scheduler went away; the same command goes on where this run stopped") from error


def free_there(client: Client) -> tuple[int, int]:
    """Workers there are, and bytes free for all if each had what the poorest has."""
    free: dict[str, int] = client.run(free_here)
    hosts = Counter(address.rsplit(":", 1)[0] for address in free)
    each = min(size // hosts[address.rsplit(":", 1)[0]] for address, size in free.items())
    return len(free), each * len(free)


def dashboard(there: Workers) -> str:
    """Address of the page that shows what our workers do; who started others knows theirs."""
    shows = there.ours and find_spec("bokeh") is not None  # without it the page says only that it is missing
    return str(there.client.dashboard_link or "") if shows else ""


def memory_used() -> float:
    """Share of this machine's memory that is in use."""
    return float(psutil.virtual_memory().percent) / 100


def cores_of_worker() -> int | None:
    """Cores that the worker around us may use; None outside of one."""
    from distributed import get_worker

    try:
        found: Any = get_worker()
    except ValueError:
        return None
    return int(found.state.nthreads)
