"""Work that goes wrong on purpose; workers import it by name."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from tempocube.capture import worker
from tempocube.dataset.store import Task


def kill_always(model: str, sha256: str, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` takes its worker down, whoever is with it."""
    if any(task.cell.prompt == "lal" for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return worker.compute(model, sha256, tasks)


def kill_once(model: str, sha256: str, tasks: Sequence[Task]) -> worker.Report:
    """The first worker of a run dies when it has finished its batch, before it can say so."""
    report = worker.compute(model, sha256, tasks)
    died = Path(tasks[0].url) / "died"
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return report


def refuse(model: str, sha256: str, tasks: Sequence[Task]) -> worker.Report:
    """The prompt `lal` cannot be computed."""
    if any(task.cell.prompt == "lal" for task in tasks):
        raise ZeroDivisionError("nothing\nto divide by")
    return worker.compute(model, sha256, tasks)
