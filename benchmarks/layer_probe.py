"""What processes of a run note down for the layer benchmark: loads, batches, and the most memory held.

A run's workers import it before their first batch (Dask's `distributed.worker.preload`), and then everything
they load and capture is counted where it happens.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import peak

FOLDER = "TEMPOCUBE_LAYER_NOTES"

Note = dict[str, Any]


def note(what: str, **values: Any) -> None:
    """Append a line to this process' own file; the peak is that of the process so far."""
    line = {"what": what, "pid": os.getpid(), "peak": peak()} | values
    with Path(os.environ[FOLDER], f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def noted(what: str) -> Iterator[Note]:
    """Note when something began and ended, and what is put into the mapping meanwhile."""
    values: Note = {}
    began = time.time()  # one clock for all processes of a machine
    yield values
    note(what, began=began, ended=time.time(), **values)


def read(folder: Path) -> list[Note]:
    """What all processes noted."""
    lines = (line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines())
    return [json.loads(line) for line in lines]


def dask_setup(worker: Any) -> None:
    """Dask calls it in every worker that starts."""
    from tempocube.capture import engine, selftest

    load, capture = selftest.load, engine.capture

    def loaded(*args: Any, **named: Any) -> Any:
        with noted("load"):
            return load(*args, **named)

    def captured(*args: Any, **named: Any) -> Any:
        with noted("batch") as batch:
            work = capture(*args, **named)
            batch |= {"passes": work.passes, "nodes": work.nodes, "cells": len(args[1])}
        return work

    vars(selftest)["load"], vars(engine)["capture"] = loaded, captured
