"""Runs for the layer benchmark: every arm in a new process and a new cube, and whether all found the same."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import layer_probe
import numpy as np

from tempocube.dataset.cube import Cube
from tempocube.dataset.grid import Grid
from tempocube.dataset.schema import DONE
from tempocube.stats.diff import Diff, diff
from tempocube.words import how_many

HERE = Path(__file__).parent
SEED = 7  # of the sample of cells that layer 0 is given

FRESH, RELOAD, ONE, MANY, PACKED, ALL = "0", "reload", "1", "2", "3", "3xN"
DISTINCT = "one seed"

Row = dict[str, Any]
Notes = Sequence[layer_probe.Note]


@dataclass(frozen=True, slots=True)
class Arm:
    """A layer: what `layer_child.py` does with these words; sampled: it may be given a part of the cells."""

    name: str
    told: str
    words: tuple[str, ...]
    sampled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A grid, where to work, and how many of its cells layer 0 is given (None: all)."""

    grid: Grid
    scratch: Path
    sample: int | None = None

    @property
    def chosen(self) -> list[int]:
        """The cells that a sampled arm captures: the same in every round."""
        cells = len(self.grid.cells())
        if self.sample is None or self.sample >= cells:
            return list(range(cells))
        picked = np.random.default_rng(SEED).choice(cells, self.sample, replace=False)
        return sorted(int(number) for number in picked)

    @property
    def copies(self) -> bool:
        """Whether nothing but their number tells the seeds of this grid apart."""
        return len(self.grid.seeds) > 1 and not any(cell.temperature for cell in self.grid.cells())


def arms(workers: int, batch: str) -> dict[str, Arm]:
    """All of them, by the name that the command line knows."""
    single, all_of_them = ("--workers", "1"), ("--workers", str(workers))
    lone, packed = ("--batch-size", "1"), ("--batch-size", batch)
    several = f", {how_many(workers, 'worker')}"
    return {
        FRESH: Arm(FRESH, "layer 0", ("fresh",), True),
        RELOAD: Arm(RELOAD, "layer 0 in one process", ("reload",), True),
        ONE: Arm(ONE, "layer 1", ("command", *single, *lone)),
        MANY: Arm(MANY, f"layer 2{several}", ("command", *all_of_them, *lone)),
        PACKED: Arm(PACKED, "layer 3", ("command", *single, *packed)),
        ALL: Arm(ALL, f"layer 3{several}", ("command", *all_of_them, *packed)),
        DISTINCT: Arm(DISTINCT, "layer 3, one seed", ("command", *single, *packed)),
    }


def taken(case: Case, arm: Arm, cube: Path) -> Row:
    """Run an arm into a cube, and what it took from the command to its end."""
    grid, kind, *words = case.grid, *arm.words
    if arm.name == DISTINCT:
        grid = Grid.from_dict(grid.to_dict() | {"seeds": grid.seeds[:1]})
    file, notes = case.scratch / "grid.yaml", case.scratch / "notes"
    file.write_text(json.dumps(grid.to_dict()))  # JSON is YAML
    notes.mkdir()
    given = [str(number) for number in case.chosen] if arm.sampled else words
    call = [sys.executable, HERE / "layer_child.py", kind, file, cube, *given]
    began = time.time()
    done = subprocess.run(
        [str(word) for word in call], env=environment(notes), stderr=subprocess.PIPE, text=True, check=False
    )
    ended = time.time()
    found = layer_probe.read(notes)
    rmtree(notes)
    if done.returncode:
        raise RuntimeError(f"{arm.told}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    cells = len(grid.cells())
    return sample(found, began, ended, cells / len(case.chosen) if arm.sampled else 1.0) | wrote(cube)


def environment(notes: Path) -> dict[str, str]:
    """Where processes note things down, and what makes workers do it."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps(["layer_probe"])}
    return dict(os.environ) | preload | {"PYTHONPATH": path, layer_probe.FOLDER: str(notes)}


def sample(notes: Notes, began: float, ended: float, times: float) -> Row:
    """Times, counts and peaks of one run; times: how many experiments one of these stands for.

    start_s: from the command to the first experiment, its process included where each has its own; work_s:
    from there to the last one's end; end_s: the rest.
    """
    of = {what: [each for each in notes if each["what"] == what] for what in ("process", "load", "batch")}
    first = min(each["began"] for each in of["process"] or of["batch"])
    last = max(each["ended"] for each in of["process"] or of["batch"])
    start, work, end = first - began, (last - first) * times, ended - last
    peaks = most(notes)
    return {
        "start_s": start,
        "work_s": work,
        "end_s": end,
        "all_s": start + work + end,
        "load_s": float(np.mean([each["ended"] - each["began"] for each in of["load"]])),
        "batch_s": sum(each["ended"] - each["began"] for each in of["batch"]) * times,
        "loads": round(len(of["load"]) * times),
        "passes": round(sum(each["passes"] for each in of["batch"]) * times),
        "nodes": round(sum(each["nodes"] for each in of["batch"]) * times),
        "sampled": times,
        "workers": len(peaks["workers"]),
        "peak_bytes": max(peaks["workers"]),
        "sum_bytes": peaks["sum"],
    }


def most(notes: Notes) -> dict[str, Any]:
    """The most that each process with a model held, and all processes that live at the same time together.

    Processes of layer 0 follow each other: the largest of them counts, and who starts them.
    """
    held: dict[int, int] = {}
    for each in notes:
        held[each["pid"]] = max(held.get(each["pid"], 0), each["peak"])
    loaded = {each["pid"] for each in notes if each["what"] == "load"}
    workers = [size for pid, size in held.items() if pid in loaded]
    others = sum(size for pid, size in held.items() if pid not in loaded)
    own = any(each["what"] == "process" and each["pid"] not in loaded for each in notes)
    return {"workers": workers, "sum": others + (max(workers) if own else sum(workers))}


def wrote(cube: Path) -> Row:
    """How many experiments are done, how many of them are distinct, and the slots of all."""
    opened = Cube.open(cube)
    done = opened.cells(DONE)
    paths, lengths = opened.read("path_digest"), opened.read("length")
    return {
        "experiments": len(done),
        "distinct": len({str(paths[index]) for index in done}),
        "slots": int(sum(lengths[index] for index in done)),
        "stored_bytes": sum(file.stat().st_size for file in cube.rglob("*") if file.is_file()),
    }


# --- are they the same experiments?


def must_agree(case: Case, arm: Arm, first: Path, other: Path) -> None:
    """Every experiment of a cube must have the content that it has in the first, or no ratio is shown."""
    wanted = len(case.chosen) if arm.sampled else len(case.grid.cells())
    wanted //= len(case.grid.seeds) if arm.name == DISTINCT else 1
    told = differs(diff(first, other), wanted)
    if told:
        raise RuntimeError(f"{arm.told}: {told}; no ratio is shown")


def differs(found: Diff, wanted: int) -> str:
    """The first thing in which the other cube is not what it ought to be, or nothing."""
    if found.only_other:
        return f"{found.only_other[0].cell} is done in this arm alone"
    if found.common != wanted:
        missing = f", {found.only_one[0].cell} is not" if found.only_one else ""
        return f"{found.common} of {wanted} experiments are done{missing}"
    if found.parted:
        parted = found.parted[0]
        since = "" if parted.first_set is None else f" from set {parted.first_set} on"
        return f"{parted.cell} differs in {parted.what}{since}"
    for each in found.variables:
        if each.beyond:
            return f"{each.cell} differs in {each.name} by {each.largest:.1e} at {each.at}"
    return "" if found.same == found.common else f"{found.other_values} experiments have other content"


# --- rounds


def rounds(
    case: Case, chosen: Sequence[Arm], repeats: int, say: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """Every arm in turn, as often as asked for; what layer 3 finds before that is what all must find."""
    first, other = case.scratch / "first.zarr", case.scratch / "other.zarr"
    say("before the first round")
    taken(case, arms(1, "auto")[PACKED], first)
    samples: list[Row] = []
    for repeat in range(repeats):
        turn = repeat % len(chosen)
        for arm in (*chosen[turn:], *chosen[:turn]):
            say(f"round {repeat + 1} of {repeats}: {arm.told}")
            row = taken(case, arm, other)
            must_agree(case, arm, first, other)
            samples.append({"kind": "sample", "arm": arm.name, "repeat": repeat} | row)
            rmtree(other)
    rmtree(first)
    return samples


def by_round(samples: Sequence[Row], name: str) -> Mapping[int, Row]:
    """An arm's samples."""
    return {each["repeat"]: each for each in samples if each["arm"] == name}
