"""Memory, measured in new processes: the peak of long experiments, and growth over many short ones."""

import gc
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import psutil
from common import forget_peak, peak
from scipy import stats

from tempocube.capture import blas
from tempocube.capture.engine import capture
from tempocube.capture.memory import needed
from tempocube.capture.model import Model, load
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid

T = TypeVar("T")
BATCH = 10  # experiments; fewer where a grid has few


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


def growth(name: str, asked: dict[str, Any], threads: int | None, turns: int = 2) -> dict[str, Any]:
    """Bytes held after every few experiments, all of a grid so many times; an interval for their slope."""
    model, grid, wanted = _ready(name, asked, threads)
    cells = grid.cells()
    held, count, size = [], 0, max(1, min(BATCH, len(cells) // 4))
    for turn in range(-1, turns):  # what is made once is made in the first turn, which does not count
        for start in range(0, len(cells), size):
            batch = cells[start : start + size]
            capture(model, batch, [Passing() for _ in batch], wanted)
            count += len(batch) * (turn >= 0)
            if turn >= 0:
                held.append((count, _held()))
    fit = stats.linregress(*zip(*held, strict=True))
    reach = float(stats.t.ppf(0.975, len(held) - 2) * fit.stderr)
    slope = float(fit.slope)
    return {"experiments": count, "held": held, "slope": slope, "interval": [slope - reach, slope + reach]}


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
