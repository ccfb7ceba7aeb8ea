"""One arm of the layer benchmark in a process of its own: how often a process starts, and a model is loaded.

Started by `layers.py`, as `layer_child.py ARM grid.yaml cube.zarr WORDS`. Layer 0 and the reload capture cell
by cell into the cube with the engine that the workers of the other layers have, and without Dask. They load
the model without the self-test of a run: that is to their advantage.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from layer_probe import note, noted

from tempocube.capture import blas, engine, model, selftest
from tempocube.capture.effort import Asked
from tempocube.capture.wanted import Wanted
from tempocube.cli import capture as cli
from tempocube.dataset.grid import Grid
from tempocube.dataset.store import Driver, Task


def fresh(grid: Path, cube: Path, chosen: Sequence[int]) -> None:
    """Layer 0: a new process for every cell."""
    with _driver(grid, cube) as driver:
        todo, where = driver.todo(), cube.with_suffix(".task")
        for number in chosen:
            where.write_bytes(pickle.dumps(todo[number]))
            with noted("process"):
                subprocess.run([sys.executable, __file__, "one", where, grid], check=True)


def reload(grid: Path, cube: Path, chosen: Sequence[int]) -> None:
    """The same cells in one process, the model loaded anew for each."""
    with _driver(grid, cube) as driver:
        todo = driver.todo()
        for number in chosen:
            with noted("process"):
                _capture(todo[number], Grid.load(grid))
        note("end")


def command(grid: Path, cube: Path, words: Sequence[str]) -> None:
    """Layers 1 to 3: what `tempo-capture` does."""
    sys.argv[:] = ["tempo-capture", str(grid), "--out", str(cube), "--quiet", *words]
    try:
        cli.main()
    finally:
        note("end")


def one(task: Path, grid: Path) -> None:
    """Load the model, capture a cell, write it, and go."""
    _capture(pickle.loads(task.read_bytes()), Grid.load(grid))
    os._exit(0)  # as a run's workers do: MLX's threads can abort a process that takes itself apart


def _capture(task: Task, grid: Grid) -> None:
    with noted("load"):
        loaded = model.load(grid.model)
        if "OPENBLAS_NUM_THREADS" not in os.environ:  # as many threads as a run would give it
            cores = os.cpu_count() or 1
            blas.set_threads(1 if loaded.facts.hidden < selftest.WIDE else cores)
    with noted("batch") as batch:
        wanted = Wanted.of(grid.capture, grid.storage, loaded.facts)
        work = engine.capture(loaded, [task.cell], [task.writer()], wanted)
        batch |= {"passes": work.passes, "nodes": work.nodes, "cells": 1}


def _driver(grid: Path, cube: Path) -> Driver:
    asked = Asked.of(Grid.load(grid))
    longest = max(asked.prompts.values())
    return Driver(cube, asked.grid, asked.facts, longest, vocabulary=asked.reader.vocabulary)


if __name__ == "__main__":
    arm, *rest = sys.argv[1:]
    if arm == "one":
        one(*map(Path, rest))
    elif arm == "command":
        command(Path(rest[0]), Path(rest[1]), rest[2:])
    else:
        {"fresh": fresh, "reload": reload}[arm](Path(rest[0]), Path(rest[1]), list(map(int, rest[2:])))
