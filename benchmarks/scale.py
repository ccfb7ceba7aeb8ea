"""What a run costs beside its cells: time to the first one, and the driver's share with very many tiny ones.

    python benchmarks/scale.py                 # both, a few minutes
    python benchmarks/scale.py --only first    # from typing to the first cell, the model in the box
    python benchmarks/scale.py --only many     # 2,500 and 10,000 tiny cells: the driver's time and memory

The driver holds Dask's scheduler too; its time is CPU time of all its threads, from the run's own log.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import machine
from rich.console import Console

from tempocube.dataset import runlog

SIZES = (2_500, 10_000)
PROMPTS, MODES = 50, ("isolated", "visible")
RUN = Path(sys.executable).parent / "tempo-capture"

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, and write JSON lines where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=("first", "many"), help="one of the two")
    parser.add_argument("--workers", type=int, default=2, help="of the many tiny cells (2)")
    parser.add_argument("--repeats", type=int, default=5, help="starts that are timed (5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of tiny cells")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    args, console = parser.parse_args(argv), Console(soft_wrap=True, highlight=False)
    rows: list[Row] = [{"what": "machine", **machine("mlx", "mlx-lm", "dask", "distributed")}]
    with TemporaryDirectory() as folder:
        if args.only != "many":
            rows.append(first(Path(folder), args.repeats))
            console.print(told_first(rows[-1]))
        if args.only != "first":
            for size in args.sizes:
                rows.append(many(Path(folder), size, args.workers))
                console.print(told_many(rows[-1]))
    if args.json:
        args.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 0


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
    seeds = cells // (PROMPTS * len(MODES))
    grid: dict[str, Any] = {
        "prompts": {"tiny": [f"The {number}" for number in range(PROMPTS)]},
        "seeds": list(range(seeds)),
        "modes": list(MODES),
        "max_tokens": 2,
        "temperature": 0.7,
        "capture": {"attention": {"layers": [0], "heads": [0]}, "logits": False},
    }
    file, cube = folder / "tiny.yaml", folder / f"many{cells}.zarr"
    file.write_text(json.dumps(grid))  # JSON is YAML
    began = time.perf_counter()
    subprocess.run([RUN, file, "--workers", str(workers), "--quiet", "-o", cube], check=True)
    wall = time.perf_counter() - began
    record = runlog.runs(cube)[-1]
    return {
        "what": "many cells",
        "cells": seeds * PROMPTS * len(MODES),
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
    sys.exit(main())
