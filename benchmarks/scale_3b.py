"""The shape of a model of three billion parameters, random weights, with the experiments of the seeds."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import footprint
import layering
import numpy as np
import psutil
import shapes
from common import Clock, forget_peak, peak
from layering import Arm, Case
from shapes import Shape

from tempocube.dataset.cube import Cube
from tempocube.dataset.grid import Grid
from tempocube.dataset.schema import DONE

MINUTES = {"seeds100": 2.0, "seeds100-sampled": 5.0}  # that all experiments may take, loading apart
MOST_GIB = 20.0  # of all processes together
SPARE = 1.35  # times its weights in float32: what must be free for a run
GIB = 1 << 30

Row = dict[str, Any]


def lacking(shape: Shape, models: Path) -> str | None:
    """What this machine has too little of just now, or None."""
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(models).free
    needs = (
        SPARE * 4 * shape.parameters,
        (0.5 if (models / shape.name).exists() else 1.5) * 2 * shape.parameters,
    )
    for name, have, need in (("memory", memory, needs[0]), ("disk", disk, needs[1])):
        if have < need:
            return f"{shape.name}: {need / GIB:.1f} GiB of {name} must be free, {have / GIB:.1f} are"
    return None


def written(shape: Shape, models: Path) -> Path:
    """The model's folder, whole or not there."""
    model, part = models / shape.name, models / f"{shape.name}.part"
    if not model.exists():
        shutil.rmtree(part, ignore_errors=True)
        shapes.checkpoint(part, shape).rename(model)
    return model.absolute()


def measured(shape: Shape, models: Path, folder: Path, limit: int | None) -> Iterator[Row]:
    """Load it once in a process of its own, then run both presets, or so many cells of each."""
    model = written(shape, models)
    yield {"kind": "loading"} | footprint.alone(loading, str(model))
    for preset in MINUTES:
        grid = Grid.from_dict(Grid.load(preset).to_dict() | {"model": str(model)})
        words = ("command", "--workers", "1", *(("--limit", str(limit)) if limit else ()))
        cube = folder / f"{preset}.zarr"
        found = layering.taken(Case(grid, folder), Arm(preset, preset, words), cube)
        yield {"kind": "run", "preset": preset, "cells": len(grid.cells())} | found | sets(cube)
        shutil.rmtree(cube)


def loading(name: str) -> Row:
    """In a new process: seconds and peak of loading, beside the weights themselves."""
    from tempocube.capture import blas

    blas.prepare()
    from tempocube.capture.model import load, weight_bytes

    before = psutil.Process().memory_info().rss
    forget_peak()
    with Clock() as clock:
        load(name)
    return {"weights": weight_bytes(name), "peak_bytes": peak() - before, "seconds": clock.wall}


def sets(cube: Path) -> Row:
    """How wide the sets are that were taken."""
    opened = Cube.open(cube)
    width = opened.read("width")[tuple(np.array(opened.cells(DONE)).T)]
    values, counts = np.unique(width[width > 0], return_counts=True)
    return {"widths": {int(value): int(count) for value, count in zip(values, counts, strict=True)}}


def told(row: Row) -> list[str]:
    """A row as lines."""
    if row["kind"] == "loading":
        over = row["peak_bytes"] / row["weights"]
        weights = f"{row['weights'] / GIB:.2f} GiB of float32 weights"
        return [f"loading in {row['seconds']:.1f} s: {weights}, at its peak {over:.2f}x that"]
    done, seconds = row["experiments"], row["work_s"]
    widths = ", ".join(f"{count:,} of {width}" for width, count in row["widths"].items())
    lines = [
        f"{row['preset']}: {done} of {row['cells']} experiments in {seconds:.1f} s, "
        f"{seconds / done:.2f} s each, {row['nodes'] / seconds:.1f} nodes/s; "
        f"load and self-test {row['load_s']:.1f} s apart",
        f"  sets by width: {widths}; {row['passes']} passes, {row['nodes']:,} nodes, {row['slots']:,} slots; "
        f"{row['stored_bytes'] / 1e6:,.0f} MB stored; all processes at most {row['sum_bytes'] / GIB:.2f} GiB",
    ]
    if done == row["cells"]:
        most = MINUTES[row["preset"]] * 60
        fast, small = seconds < most, row["sum_bytes"] < MOST_GIB * GIB
        lines.append(f"  asked: under {most:.0f} s: {_met(fast)}; under {MOST_GIB:g} GiB: {_met(small)}")
    return lines


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"
