"""What measuring a cube costs, beside decoding it once: time, peak memory, and the second call.

    python benchmarks/measures.py --profile tiny
    python benchmarks/measures.py --profile long --cells 100 --rounds 1    # 30 GB raw

Prompts by seeds by both modes, visible along isolated's sets; the maps are those of the storage benchmark.
Everything is timed in a process of its own. `decode` reads every cell once through the table, one after the
other, which uses all cores by itself and is faster than several readers at once; `survey` measures everything
and keeps it; `again` makes all tables from what was kept. Decoding and measuring take turns, ratios are taken
within a round. Wall seconds are as a user sees them, start of the interpreter included; files are in the page
cache. A row is an observation of this machine.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import planted
from common import Clock, machine, peak, shown, spread
from formats import facts
from planted import PROFILES, Blocks, Profile
from rich.console import Console
from rich.table import Table

from tempocube.dataset.grid import Grid
from tempocube.dataset.reading import open_cube
from tempocube.dataset.store import Driver, Task
from tempocube.stats import cache, measures
from tempocube.stats.subjects import Subjects
from tempocube.stats.survey import THREADS

PACKAGES = ("tempocube", "numpy", "pandas", "zarr", "numcodecs")
MODES = ("isolated", "visible")
SEEDS = 5
CATEGORIES = ("narrative", "factual", "technical", "dialogue", "descriptive")
TIMES = {"wall_s": "wall s", "wall_cpu_s": "its CPU s", "s": "s", "cpu_s": "CPU s"}
MB, GIB = 1e6, 1 << 30
FLATTER = np.float32(0.9)  # readouts of visible, over those of isolated

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Write a cube or take one, measure, show; only a cube that was given stays."""
    args = arguments(argv)
    if args.way:
        print(json.dumps(WAYS[args.way](args.cube)), flush=True)
        os._exit(0)  # once in some thousand starts a native thread crashed a process that took itself apart
    console = Console(width=None if sys.stdout.isatty() else 120, log_path=False)
    with tempfile.TemporaryDirectory(prefix="tempocube-measures-", dir=args.scratch) as scratch:
        where = args.cube or Path(scratch, "cube.zarr")
        if not args.cube:
            console.log(f"writing {args.cells} cells of profile {args.profile}")
            write_cube(where, PROFILES[args.profile], args.cells, args.logits, args.workers)
        lines = [about(where), *samples(where, args.rounds, console)]
    lines.append(summary(lines))
    show(console, lines)
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="tiny", help="shape of the experiments (tiny)")
    parser.add_argument("--cells", type=int, default=20, help="experiments, half of them in each mode (20)")
    parser.add_argument("--logits", action="store_true", help="readouts too")
    parser.add_argument(
        "--cube", type=Path, help="measure this cube instead; its kept measures are made anew"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each has its turn (3)")
    parser.add_argument("--workers", type=int, default=2, help="processes that write at once (2)")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument("--scratch", type=Path, help="where the cube goes (a folder for temporary files)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.cells < 2 or args.cells % 2:
        parser.error(f"--cells must be even, for two modes, got {args.cells}")
    for name in ("rounds", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.cube and not args.cube.is_dir():
        parser.error(f"--cube {args.cube}: no such folder")
    return args


# --- the cube


def asked(profile: Profile, cells: int, logits: bool) -> Grid:
    """Its grid: five seeds and five categories where there are cells enough."""
    pairs = cells // len(MODES)
    seeds = SEEDS if pairs % SEEDS == 0 else 1
    prompts: dict[str, list[str]] = {}
    for number in range(pairs // seeds):
        prompts.setdefault(CATEGORIES[number % len(CATEGORIES)], []).append(f"planted {number}")
    storage = "log16"
    return Grid.from_dict(
        {
            "prompts": prompts,
            "seeds": list(range(seeds)),
            "modes": list(MODES),
            "replay": MODES[0],
            "max_tokens": profile.sets,
            "max_slots": profile.slots,
            "capture": {"attention": {}, "logits": logits},
            "storage": {"attention": storage, "logits": storage},
        }
    )


def write_cube(where: Path, profile: Profile, cells: int, logits: bool, workers: int) -> None:
    """Write it from several processes, as a capture does."""
    grid = asked(profile, cells, logits)
    with (
        Driver(where, grid, facts(profile), planted.PROMPT_TOKENS[1] - 1) as run,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        seeds = len(grid.seeds)
        jobs = [pool.submit(write_cell, profile, seeds, task) for task in run.todo()]
        for done in as_completed(jobs):
            done.result()
            run.fold()


def write_cell(profile: Profile, seeds: int, task: Task) -> None:
    """In a worker: both modes of a prompt and seed have the same sets."""
    prompt, seed, mode = task.index[:3]
    number, writer = prompt * seeds + seed, task.writer()
    for start, logs in maps(profile, number, MODES[mode]):
        writer.write("log_attention", logs, start)
    for start, logs in readouts(profile, number, MODES[mode]) if "logits" in writer.cube.data else ():
        writer.write("logits", logs, start)
    writer.finish(planted.small(profile, number))


def maps(profile: Profile, number: int, mode: str) -> Blocks:
    """The planted maps; where siblings are visible, each gets what the token gives to itself."""
    for start, logs in planted.maps(profile, number):
        if mode == "visible":
            _see_siblings(logs, start)
        yield start, logs


def readouts(profile: Profile, number: int, mode: str) -> Blocks:
    """The planted readouts; those of visible are a little flatter."""
    for start, logs in planted.readouts(profile, number):
        if mode == "visible":
            logs *= FLATTER
            logs -= np.log(np.exp(logs).sum(axis=-1, keepdims=True))
        yield start, logs


def _see_siblings(logs: planted.Floats, start: int) -> None:
    """In place; the rows sum to one again."""
    rows = np.arange(logs.shape[2])
    own = logs[:, :, rows, start + rows][..., None]
    hidden = np.isneginf(logs[0, 0])
    np.copyto(logs, own, where=hidden)
    logs -= np.log1p(hidden.sum(axis=1)[:, None] * np.exp(own))


# --- what is timed, each in a process of its own


def decode(where: Path) -> Row:
    """Every cell once through the table."""
    cube = open_cube(where)
    names = [name for name in ("log_attention", "logits") if name in cube]
    lengths, sets = cube.length.values, (cube.width > 0).sum("step").values
    with Clock() as clock:
        for index in np.ndindex(lengths.shape):
            slots = slice(int(lengths[index]))
            ends = {"log_attention": (slots, slots), "logits": (slice(int(sets[index])), slice(None))}
            for name in names:
                cube[name][(*index, ..., *ends[name])].load()
    return {"s": clock.wall, "cpu_s": clock.cpu, "peak_bytes": peak()}


def survey(where: Path) -> Row:
    """All measures, from nothing."""
    with Clock() as clock:
        found = measures.experiments(where)
    defined = found[["downweighting", "mass_sink"]].notna().all(axis=None)
    return {"s": clock.wall, "cpu_s": clock.cpu, "peak_bytes": peak(), "defined": bool(defined)}


def again(where: Path) -> Row:
    """All tables, from what was kept."""
    with Clock() as clock:
        for table in (measures.experiments, measures.between, measures.maps, measures.steps):
            table(where)
    return {"s": clock.wall, "cpu_s": clock.cpu, "peak_bytes": peak()}


WAYS = {"decode": decode, "survey": survey, "again": again}


def samples(where: Path, rounds: int, console: Console) -> Iterator[Row]:
    """Each in turn; another one begins every round, and the second call comes after the survey."""
    for number in range(rounds):
        order = ["decode", "survey"] if number % 2 == 0 else ["survey", "decode"]
        forget(where)
        for way in [*order, "again"]:
            found = timed(where, way)
            console.log(f"round {number + 1} of {rounds}: {way} {found['wall_s']:.1f} s")
            yield {"kind": "sample", "round": number, "way": way} | found
    forget(where)


def timed(where: Path, way: str) -> Row:
    """One of them in a fresh interpreter, with its wall time as seen from outside."""
    command = [sys.executable, __file__, "--way", way, "--cube", where]
    began, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    wall, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{way} ended with {done.returncode}: {done.stderr.strip()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "wall_cpu_s": cpu, **json.loads(done.stdout)}


def forget(where: Path) -> None:
    """Throw away what was kept of it."""
    shutil.rmtree(cache.folder(Subjects(where).cube.place), ignore_errors=True)


# --- what is shown


def about(where: Path) -> Row:
    """What was measured, on what."""
    subjects = Subjects(where)
    cube = subjects.cube
    per_pair = len(subjects.layers) * len(subjects.heads) * 4
    slots = cube.read("length")[cube.status() == 1].astype(int)
    steps = (cube.read("width")[cube.status() == 1] > 0).sum() if "logits" in cube.data else 0
    return {
        "kind": "run",
        "cells": len(subjects.indices),
        "prompts": cube.shape[0],
        "raw_bytes": int((slots**2).sum() * per_pair + steps * cube.facts.vocab * 4),
        "logits": "logits" in cube.data,
        "stored_bytes": sum(file.stat().st_size for file in where.rglob("*") if file.is_file()),
        "threads": min(THREADS, os.cpu_count() or 1),
        "machine": machine(*PACKAGES),
    }


def summary(lines: list[Row]) -> Row:
    """Medians of everything, and the survey over decoding within each round."""
    by_way = {
        way: {line["round"]: line for line in lines if line["kind"] == "sample" and line["way"] == way}
        for way in WAYS
    }
    found: Row = {"kind": "summary"}
    for way, rounds in by_way.items():
        for name in (*TIMES, "peak_bytes"):
            found[f"{way}_{name}"] = spread(each[name] for each in rounds.values())
    for name in ("s", "cpu_s"):
        pairs = (by_way["survey"][n][name] / one[name] for n, one in by_way["decode"].items())
        found[f"ratio_{name}"] = spread(pairs)
    return found


def show(console: Console, lines: list[Row]) -> None:
    """One row for each of the three, and the ratio."""
    run, found = lines[0], lines[-1]
    on = run["machine"]
    console.print(f"{on['cores']} cores, {on['cpu']}, {on['memory_gb']} GB; {on['system']}")
    console.print(
        f"{run['cells']} cells of {run['prompts']} prompts, {run['raw_bytes'] / MB:,.1f} MB raw float32, "
        f"{run['stored_bytes'] / MB:,.1f} MB stored; {run['threads']} threads"
    )
    table = Table(title="median (least-most) over the rounds", title_justify="left")
    for name in ("", *TIMES.values(), "peak GiB"):
        table.add_column(name, justify="right" if name else "left")
    for way in WAYS:
        peaks = {name: value / GIB for name, value in found[f"{way}_peak_bytes"].items()}
        seconds = (shown(found[f"{way}_{name}"], 2) for name in TIMES)
        table.add_row(way, *seconds, shown(peaks, 2))
    console.print(table)
    ratios = {name: shown(found[f"ratio_{name}"], 2) for name in ("s", "cpu_s")}
    console.print(f"survey over decode, within each round: time {ratios['s']}, CPU {ratios['cpu_s']}")
    console.print("wall: from outside, start of the interpreter and imports included; s: without them")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a cube that was written to scratch goes
    sys.exit(main())
