"""Work that goes wrong on purpose; workers import it by name."""

import os
import re
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tempocube.capture import worker
from tempocube.dataset.store import Task
from tempocube.errors import CubeError, LeaseError


def kill_always(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` takes its worker down, whoever is with it."""
    if any(task.cell.prompt == "lal" for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return worker.compute(job, tasks)


def kill_once(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The first worker of a run dies when it has finished its batch, before it can say so."""
    report = worker.compute(job, tasks)
    died = Path(tasks[0].url) / "died"
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return report


def refuse(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` cannot be computed."""
    if any(task.cell.prompt == "lal" for task in tasks):
        raise ZeroDivisionError("nothing\nto divide by")
    return worker.compute(job, tasks)


def hang(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` never comes back, and holds the interpreter."""
    if any(task.cell.prompt == "lal" for task in tasks):
        with worker._watched(job.patience):
            re.match(r"(a+)+$", "a" * 60 + "b")  # some thousand years
    return worker.compute(job, tasks)


def exhaust(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` takes more memory than its worker may have."""
    if any(task.cell.prompt == "lal" for task in tasks):
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
        try:
            return worker.Report(str(len(bytearray(1 << 34))), "", 0, 0, 0, 0, 0.0, 0, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return worker.compute(job, tasks)


def stand_still_once(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """What a worker says that has seen no heartbeat, though the driver lives."""
    seen = Path(tasks[0].url) / "seen"
    if not seen.exists():
        seen.touch()
        raise LeaseError("no heartbeat of the run for 10 s; nothing was written")
    return worker.compute(job, tasks)


def kill_after(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` is captured, and then its worker dies, every time."""
    report = worker.compute(job, tasks)
    if any(task.cell.prompt == "lal" for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return report


def kill_leaders(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` takes its worker down where others follow it."""
    if any(task.cell.prompt == "lal" and task.cell.leader is None for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return worker.compute(job, tasks)


def slowly(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """Time to be killed in."""
    report = worker.compute(job, tasks)
    time.sleep(0.3)
    return report


def refuse_all(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """What is wrong is not about a cell."""
    raise CubeError("the disk is on fire")


def stop_once(job: worker.Job, tasks: Sequence[Task]) -> worker.Report:
    """The first worker of a run stands still, all of it, before it begins."""
    stopped = Path(tasks[0].url) / "stopped"
    if not stopped.exists():
        stopped.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return worker.compute(job, tasks)
