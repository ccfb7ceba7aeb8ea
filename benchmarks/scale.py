"""What a run costs beside its cells, how that grows, and the shape of a model of three billion parameters.

    python benchmarks/scale.py                 # the first three, about a quarter of an hour
    python benchmarks/scale.py --only first    # from typing to the first cell, the model in the box
    python benchmarks/scale.py --only many     # 2,500 and 10,000 tiny cells: the driver's time and memory
    python benchmarks/scale.py --only growth   # time and memory with cells, slots, batch size and workers
    python benchmarks/scale.py --only 3b       # 13 GB of weights: 17.5 GB of memory and 10 GB of disk

The driver holds Dask's scheduler too; its time is CPU time of all its threads, from the run's own log. Slopes
are those of logarithms, within each round: 1 is growth in proportion, 0 is none. The weights of the 3b shape
are random, drawn so that sets have one token to four; written to `--scratch`, they stay there.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scale_3b
import scale_growth
from common import machine
from rich.console import Console
from scale_growth import tiny_grid
from shapes import SHAPES

from tempocube.dataset import runlog

SIZES = (2_500, 10_000)
RUN = Path(sys.executable).parent / "tempo-capture"

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, and write JSON lines where asked."""
    args, console = arguments(argv), Console(soft_wrap=True, highlight=False)
    rows: list[Row] = [{"what": "machine", **machine("mlx", "mlx-lm", "dask", "distributed")}]
    with TemporaryDirectory(prefix="tempocube-scale-", dir=args.scratch) as folder:
        for name in [args.only] if args.only else DEFAULT:
            rows += SECTIONS[name](args, Path(folder), console)
    if args.json:
        args.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, help=f"of {[*SECTIONS]}")
    parser.add_argument("--workers", type=int, default=2, help="of the many tiny cells (2)")
    parser.add_argument("--repeats", type=int, default=5, help="starts, or rounds of growth (5)")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of tiny cells, or of the one axis")
    parser.add_argument("--axis", nargs="+", choices=scale_growth.AXES, help="of growth (all)")
    parser.add_argument("--limit", type=int, help="cells of each preset that the 3b shape runs (all)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model instead of the 3b shape")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument("--scratch", type=Path, help="where to work (a folder for temporary files)")
    args = parser.parse_args(argv)
    for name in ("workers", "repeats", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("json", "scratch"):
        where = getattr(args, name)
        if where and not (where if name == "scratch" else where.absolute().parent).is_dir():
            parser.error(f"--{name} {where}: no such folder")
    args.axis = args.axis or [*scale_growth.AXES]
    if args.only == "growth" and args.sizes and len(args.axis) > 1:
        parser.error("--sizes of growth are those of one --axis: cells, slots, batch or workers")
    return args


# --- from typing to the first cell, and the driver's share


def starting(args: argparse.Namespace, folder: Path, console: Console) -> list[Row]:
    """Time to the first cell."""
    row = first(folder, args.repeats)
    console.print(told_first(row))
    return [row]


def driving(args: argparse.Namespace, folder: Path, console: Console) -> list[Row]:
    """The driver's share, with more and more cells."""
    rows = []
    for size in args.sizes or SIZES:
        rows.append(many(folder, size, args.workers))
        console.print(told_many(rows[-1]))
    return rows


def growing(args: argparse.Namespace, folder: Path, console: Console) -> list[Row]:
    """Growth along every axis."""
    rows: list[Row] = []
    for axis in args.axis:
        found = list(scale_growth.samples(axis, args.sizes or scale_growth.SIZES[axis], folder, args.repeats))
        summary = scale_growth.summary(axis, found)
        scale_growth.show(console, axis, summary)
        rows += [*found, *summary]
    return rows


def billions(args: argparse.Namespace, folder: Path, console: Console) -> list[Row]:
    """The 3b shape, if this machine has room for it just now."""
    shape, models = SHAPES["tiny-3b" if args.tiny else "3b"], args.scratch or folder
    if why := scale_3b.lacking(shape, models):
        console.print(f"skipped: {why}")
        return [{"kind": "skipped", "why": why}]
    rows = []
    for row in scale_3b.measured(shape, models, folder, args.limit):
        console.print(*scale_3b.told(row), sep="\n")
        rows.append(row)
    return rows


Section = Callable[[argparse.Namespace, Path, Console], list[Row]]
SECTIONS: dict[str, Section] = {"first": starting, "many": driving, "growth": growing, "3b": billions}
DEFAULT = ("first", "many", "growth")


def first(folder: Path, repeats: int) -> Row:
    """Seconds from the command to the first finished cell of seeds100, one worker, each in a new cube."""
    seconds = []
    for number in range(repeats):
        cube = folder / f"first{number}.zarr"
        began = time.perf_counter()
        run = subprocess.Popen([RUN, "seeds100", "--workers", "1", "--quiet", "-o", cube])
        receipts = cube / "status/run/receipts"
        while run.poll() is None and not (receipts.is_dir() and os.listdir(receipts)):
            time.sleep(0.01)
        seconds.append(time.perf_counter() - began)
        if run.wait():
            raise SystemExit("tempo-capture seeds100 failed")
    return {"what": "first cell", "seconds": seconds}


def told_first(row: Row) -> str:
    """The same as a line."""
    low, middle, high = np.min(row["seconds"]), np.median(row["seconds"]), np.max(row["seconds"])
    return f"first cell of seeds100: {middle:.1f} s after the command ({low:.1f}-{high:.1f})"


def many(folder: Path, cells: int, workers: int) -> Row:
    """So many cells of two sets with the model in the box, and what the driver took."""
    grid, file, cube = tiny_grid(cells), folder / "tiny.yaml", folder / f"many{cells}.zarr"
    file.write_text(json.dumps(grid.to_dict()))  # JSON is YAML
    began = time.perf_counter()
    subprocess.run([RUN, file, "--workers", str(workers), "--quiet", "-o", cube], check=True)
    wall = time.perf_counter() - began
    record = runlog.runs(cube)[-1]
    return {
        "what": "many cells",
        "cells": len(grid.cells()),
        "done": record["done"],
        "wall": wall,
        "workers_seconds": sum(row["seconds"] for row in record["workers"]),
        "driver_seconds": record["driver"]["cpu_seconds"],
        "driver_peak": record["driver"]["peak_bytes"],
    }


def told_many(row: Row) -> str:
    """The same as a line."""
    share = row["driver_seconds"] / row["workers_seconds"]
    return (
        f"{row['done']:,} of {row['cells']:,} tiny cells in {row['wall']:.0f} s: "
        f"driver {row['driver_seconds']:.1f} s of CPU, {share:.1%} of the workers' "
        f"{row['workers_seconds']:.0f} s; its peak {row['driver_peak'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was written to the scratch folder goes
    sys.exit(main())
