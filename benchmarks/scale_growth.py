"""How time and memory grow with cells, slots, batch size and workers: slopes of logarithms by round."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import footprint
import layering
import numpy as np
from common import MB, shown, spread
from layering import Arm, Case
from rich.console import Console
from rich.table import Table

from tempocube.dataset.grid import Grid

PROMPTS, MODES = 50, ("isolated", "visible")
POSITIONS = 1000  # that a long experiment may take: the embedded model has 1,024
PAGE = 4096  # bytes: what fits into memory that a first short capture left free needs no more than that
SIZES = {
    "cells": (10, 100, 1_000, 10_000),
    "slots": (32, 64, 128, 256, 512, 1_024),
    "batch": (1, 2, 5, 10, 20, 50, 100),
    "workers": (1, 2),
}
TOLD = {
    "cells": "tiny cells, one worker: the run's seconds after start-up, and all processes",
    "slots": "slots of one experiment, rows passed on: its seconds, and memory beyond a loaded model's",
    "batch": "seeds100-sampled, experiments in a batch: seconds of one, and memory beyond a loaded model's",
    "workers": "workers, seeds100-sampled one by one: seconds after start-up, and all processes",
}

Row = dict[str, Any]


def tiny_grid(cells: int) -> Grid:
    """About so many cells of two sets, with one head's attention."""
    prompts = min(PROMPTS, max(1, cells // len(MODES)))
    return Grid.from_dict(
        {
            "prompts": {"tiny": [f"The {number}" for number in range(prompts)]},
            "seeds": list(range(max(1, cells // (prompts * len(MODES))))),
            "modes": list(MODES),
            "max_tokens": 2,
            "temperature": 0.7,
            "capture": {"attention": {"layers": [0], "heads": [0]}, "logits": False},
        }
    )


# --- what is measured at one size: seconds and bytes


def cells(folder: Path, size: int) -> Row:
    """A whole run, one worker."""
    return _command(folder, tiny_grid(size), "--workers", "1")


def slots(folder: Path, size: int) -> Row:
    """One long experiment of the model in the box."""
    asked = Grid.load("long").to_dict() | {"max_tokens": min(size, POSITIONS), "max_slots": size}
    found = footprint.alone(footprint.long, "embedded", asked, 1, 1)
    return {"x": found["slots"], "seconds": found["seconds"], "bytes": max(PAGE, found["peak_bytes"])}


def batch(folder: Path, size: int) -> Row:
    """So many experiments in one batch."""
    found = footprint.alone(footprint.long, "embedded", Grid.load("seeds100-sampled").to_dict(), size, 1)
    seconds = found["seconds"] / found["cells"]
    return {"x": found["cells"], "seconds": seconds, "bytes": max(PAGE, found["peak_bytes"])}


def workers(folder: Path, size: int) -> Row:
    """A whole run, so many workers."""
    grid = Grid.load("seeds100-sampled")
    return _command(folder, grid, "--workers", str(size), "--batch-size", "1") | {"x": size}


def _command(folder: Path, grid: Grid, *words: str) -> Row:
    cube = folder / "cube.zarr"
    found = layering.taken(Case(grid, folder), Arm("grown", "tempo-capture", ("command", *words)), cube)
    rmtree(cube)
    if found["experiments"] != len(grid.cells()):
        raise RuntimeError(f"{found['experiments']} of {len(grid.cells())} cells are done")
    return {"x": len(grid.cells()), "seconds": found["work_s"], "bytes": found["sum_bytes"]}


AXES: dict[str, Callable[[Path, int], Row]] = {
    "cells": cells,
    "slots": slots,
    "batch": batch,
    "workers": workers,
}


# --- rounds and slopes


def samples(axis: str, sizes: Sequence[int], folder: Path, repeats: int) -> Iterator[Row]:
    """All sizes of an axis, as often as asked for; every other round begins with the largest."""
    for number in range(repeats):
        for size in sizes if number % 2 == 0 else sizes[::-1]:
            yield {"kind": "sample", "axis": axis, "round": number} | AXES[axis](folder, size)


def summary(axis: str, rows: Sequence[Row]) -> list[Row]:
    """Every size with its spread, and the slopes of the rounds: 1 is in proportion, 0 is not at all."""
    found: list[Row] = []
    for x in sorted({row["x"] for row in rows}):
        mine = [row for row in rows if row["x"] == x]
        of = {name: spread(row[name] for row in mine) for name in ("seconds", "bytes")}
        found.append({"kind": "size", "axis": axis, "x": x} | of)
    if len(found) > 1:
        rounds = sorted({row["round"] for row in rows})
        slopes = {
            name: spread(slope([row for row in rows if row["round"] == n], name) for n in rounds)
            for name in ("seconds", "bytes")
        }
        found.append({"kind": "slope", "axis": axis} | slopes)
    return found


def slope(rows: Sequence[Row], name: str) -> float:
    """Of the logarithm of seconds or bytes on that of the size, by least squares."""
    x, y = (np.log([row[each] for row in rows]) for each in ("x", name))
    return float(np.polyfit(x, y, 1)[0])


def show(console: Console, axis: str, rows: Sequence[Row]) -> None:
    """An axis as a table, and its slopes."""
    table = Table(title=TOLD[axis], title_justify="left")
    for column in (axis, "seconds", "MB"):
        table.add_column(column, justify="right")
    for row in (row for row in rows if row["kind"] == "size"):
        bytes_ = {name: value / MB for name, value in row["bytes"].items()}
        table.add_row(f"{row['x']:,}", shown(row["seconds"], 4), shown(bytes_, 1))
    console.print(table)
    for row in (row for row in rows if row["kind"] == "slope"):
        told = "{median:.2f} ({least:.2f} to {most:.2f})"
        found = [f"{name} {told.format(**row[name])}" for name in ("seconds", "bytes")]
        console.print(f"slope of logarithms: {', '.join(found)}")
