"""Memory, measured in new processes: the peak of long experiments, and growth over many short ones."""

import ctypes
import gc
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import psutil
from common import forget_peak, peak
from scipy import stats

from tempocube.capture import blas
from tempocube.capture.engine import capture
from tempocube.capture.memory import needed
from tempocube.capture.model import Model, load
from tempocube.capture.rows import Sink
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid

T = TypeVar("T")
BATCH = 10  # experiments
WARM = 2  # turns in which what is made once is made


class Passing:
    """A sink that lets rows go by, as one does that writes them, and knows how long the experiment was."""

    def __init__(self) -> None:
        self.slots = 0

    def write(self, name: str, block: Any, start: int) -> None:
        """Nothing stays."""

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> None:
        """Only its length is kept."""
        self.slots = len(small["token"])


def alone(call: Callable[..., T], *given: Any) -> T:
    """What a call gives in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call, *given).result()


def long(name: str, asked: dict[str, Any], cells: int, threads: int | None) -> dict[str, Any]:
    """A batch of so many of a grid's experiments: bytes at its peak beyond what the loaded model takes."""
    model, grid, wanted = _ready(name, asked, threads)
    every = grid.cells()
    batch = every[:: max(1, len(every) // cells)][:cells]
    sinks = [Passing() for _ in batch]
    before = _held()
    forget_peak()
    work = capture(model, batch, sinks, wanted)
    most = peak() - before
    prompts = [len(model.prompt_tokens(cell.prompt)) for cell in batch]
    maps = sum(len(wanted.layers) * len(wanted.heads) * sink.slots**2 * 4 for sink in sinks)
    return {
        "cells": len(batch),
        "slots": max(sink.slots for sink in sinks),
        "maps_bytes": maps,
        "peak_bytes": most,
        "planned_bytes": needed(model.facts, batch, prompts, wanted),
        "seconds": work.seconds,
        "nodes": work.nodes,
    }


def growth(
    name: str,
    asked: dict[str, Any],
    threads: int | None,
    turns: int = 8,
    sink: Callable[[], Sink] = Passing,
) -> dict[str, Any]:
    """Bytes held after each turn through a grid, and an interval for their slope; warm-up does not count."""
    model, grid, wanted = _ready(name, asked, threads)
    cells, held = grid.cells(), list[int]()
    for _ in range(WARM + turns):
        for start in range(0, len(cells), BATCH):
            batch = cells[start : start + BATCH]
            capture(model, batch, [sink() for _ in batch], wanted)
        held.append(_kept())
    found = slope(held[WARM - 1 :], len(cells))
    return {"experiments": turns * len(cells), "turns": turns, "held": held[WARM - 1 :]} | found


def slope(held: Sequence[int], experiments: int) -> dict[str, Any]:
    """Bytes an experiment, with a 95 % interval, of what was held before and after turns of so many.

    From what each turn added. A line through the readings would take them for independent and its interval
    would be too narrow: what an allocator took in one turn it still holds in the next.
    """
    added = np.diff(held) / experiments
    mean = float(added.mean())
    reach = float(stats.t.ppf(0.975, len(added) - 1) * added.std(ddof=1) / np.sqrt(len(added)))
    return {"slope": mean, "interval": [mean - reach, mean + reach]}


def _ready(name: str, asked: dict[str, Any], threads: int | None) -> tuple[Model, Grid, Wanted]:
    """Model and grid, after a first short capture: libraries and BLAS have the memory they keep."""
    blas.prepare(threads)
    model, grid = load(name), Grid.from_dict(asked)
    first = Grid.from_dict(asked | {"max_tokens": 2}).cells()[:1]
    wanted = Wanted.of(grid.capture, grid.storage, model.facts)
    capture(model, first, [Passing()], wanted)
    return model, grid, wanted


def _held() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _kept() -> int:
    """What is held once all that can be given back is: free memory that allocators keep is no leak."""
    import mlx.core as mx  # not before BLAS is prepared

    gc.collect()
    mx.clear_cache()
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return _held()
