"""Runs for the engine benchmark: the same experiments without capture, with it, into a cube, in batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import shapes
from common import Clock, spread

from tempocube.capture.engine import capture
from tempocube.capture.model import Model
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.cell import Cell
from tempocube.dataset.cube import Cube
from tempocube.dataset.grid import Grid
from tempocube.dataset.schema import DONE
from tempocube.dataset.store import Driver
from tempocube.dataset.visibility import PROMPT

NEAR_TIE = 1e-5  # a margin under which two runs may select differently
CLOSE = 1e-5  # weights of two runs agree to this
MARGINS = ("margin_kept", "margin_dropped", "margin_order")
SIZES = (1, 2, 7, 100)
MEASURED = ("stored_bytes", "gflops", "machine", "share", "share_cpu")
SIDE = 2048  # of the square matrices whose product is the machine's rate
TINY = {"max_tokens": 3, "seeds": [42, 123]}

Sample = dict[str, float]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """The experiments of a grid, and the model they run on."""

    name: str
    model: Model
    grid: Grid
    scratch: Path | None = None

    @property
    def wanted(self) -> Wanted:
        """What the grid captures."""
        return Wanted.of(self.grid.capture, self.grid.storage, self.model.facts)


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What a run took, and what it found."""

    sample: Sample
    found: dict[Cell, Kept]


Way = Callable[[Case], Taken]
Extra = Callable[[Taken], Sample]  # more to measure, right after a run


def grid(preset: str, tiny: bool) -> Grid:
    """A preset's grid; tiny: one category, two seeds, three sets."""
    full = Grid.load(preset)
    if not tiny:
        return full
    options = full.to_dict()
    first = next(iter(options["prompts"]))
    return Grid.from_dict(options | TINY | {"prompts": {first: options["prompts"][first]}})


def in_memory(case: Case, wanted: Wanted, size: int | None = None) -> Taken:
    """All experiments, so many in a batch, nothing written."""
    clock, cells, found = Clock(), case.grid.cells(), dict[Cell, Kept]()
    passes = nodes = 0
    size = size or len(cells)
    for start in range(0, len(cells), size):
        batch = cells[start : start + size]
        sinks = [Kept() for _ in batch]
        with clock:
            work = capture(case.model, batch, sinks, wanted)
        passes, nodes = passes + work.passes, nodes + work.nodes
        found |= zip(batch, sinks, strict=True)
    return Taken(_sample(clock, passes, nodes, len(cells)), found)


def without_capture(case: Case) -> Taken:
    """Only the sets, their probabilities and margins, and the checks."""
    return in_memory(case, Wanted())


def with_capture(case: Case) -> Taken:
    """All that the grid asks for, kept in memory."""
    return in_memory(case, case.wanted)


def with_cube(case: Case) -> Taken:
    """All that the grid asks for, encoded, written, and folded into the index; opening and closing apart."""
    with TemporaryDirectory(prefix="tempocube-engine-", dir=case.scratch) as folder:
        where = Path(folder, "cube.zarr")
        longest = max(len(case.model.prompt_tokens(text)) for text in case.grid.prompt_texts)
        with Driver(where, case.grid, case.model.facts, longest) as driver:
            sinks = [task.writer() for task in driver.todo()]
            with Clock() as clock:
                work = capture(case.model, [sink.cell for sink in sinks], sinks, case.wanted)
                driver.fold()
        size = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
        found = _read_back(where, {sink.index: sink.cell for sink in sinks})
    sample = _sample(clock, work.passes, work.nodes, len(sinks))
    return Taken(sample | {"stored_bytes": size}, found)


WAYS: dict[str, Way] = {"no capture": without_capture, "capture": with_capture, "and a cube": with_cube}


def _sample(clock: Clock, passes: int, nodes: int, experiments: int) -> Sample:
    return {
        "wall_s": clock.wall,
        "cpu_s": clock.cpu,
        "passes": passes,
        "nodes": nodes,
        "experiments": experiments,
    }


def _read_back(where: Path, cells: Mapping[tuple[int, ...], Cell]) -> dict[Cell, Kept]:
    """The small arrays of every cell, all of which must be done."""
    cube, found = Cube.open(where), dict[Cell, Kept]()
    done = set(cube.cells(DONE))
    for index, cell in cells.items():
        row = cube.row(index)
        if index not in done:
            raise RuntimeError(f"{cube.name(index)} was not written: {row['error']}")
        found[cell] = Kept()
        found[cell].finish(row)
    return found


# --- are they the same experiments?


def must_agree(what: str, first: Taken, other: Taken) -> None:
    """Sets must be equal up to a near tie, and weights where both have them, or no ratio is shown."""
    for cell, mine in first.found.items():
        theirs = other.found[cell]
        step = parted(mine.small, theirs.small)
        sets = len(mine.small["width"]) if step is None else step
        if step is not None and not any(_near_tie(kept.small, step) for kept in (mine, theirs)):
            raise RuntimeError(f"{what}: {cell.prompt!r}, seed {cell.seed}, {cell.mode}: set {step} differs")
        slots = int(np.count_nonzero(np.asarray(mine.small["slot_step"]) < sets))
        off = largest_difference(mine, theirs, slots)
        if not off <= CLOSE:
            raise RuntimeError(
                f"{what}: {cell.prompt!r}, seed {cell.seed}, {cell.mode}: weights off by {off:.1e}"
            )


def parted(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> int | None:
    """The first step at which two runs of an experiment took different sets."""
    sets = [_sets(small) for small in (mine, theirs)]
    for step, (a, b) in enumerate(zip(*sets, strict=False)):
        if a != b:
            return step
    return None if len(sets[0]) == len(sets[1]) else min(map(len, sets))


def _sets(small: Mapping[str, Any]) -> list[list[int]]:
    token, steps = np.asarray(small["token"]), np.asarray(small["slot_step"])
    return [token[steps == step].tolist() for step in range(PROMPT + 1, len(small["width"]))]


def _near_tie(small: Mapping[str, Any], step: int) -> bool:
    margins = [small[name][step] for name in MARGINS if step < len(small[name])]
    return any(abs(margin) <= NEAR_TIE for margin in margins)


def largest_difference(mine: Kept, theirs: Kept, slots: int) -> float:
    """Between the weights of two runs, over the first slots; 0 where one was captured without."""
    weights = [_weights(kept) for kept in (mine, theirs)]
    if weights[0] is None or weights[1] is None:
        return 0.0
    a, b = (each[:, :, :slots, :slots] for each in weights)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    return float(np.nanmax(np.abs(a - b), initial=0.0))


def _weights(kept: Kept) -> Any:
    data = kept.data
    return np.exp(data["log_attention"]) if "log_attention" in data else data.get("attention")


# --- rounds


def rounds(case: Case, ways: Mapping[str, Way], repeats: int, extra: Extra = lambda _: {}) -> list[Row]:
    """Every way in turn, as often as asked for; all must find what the first way finds."""
    samples: list[Row] = []
    for repeat in range(-1, repeats):  # the round before the first meets cold memory and does not count
        first, taken = repeat % len(ways), dict[str, Taken]()
        names = [*ways][first:] + [*ways][:first]
        for name in names:
            taken[name] = ways[name](case)
            about = {"kind": "sample", "case": case.name, "way": name, "repeat": repeat}
            samples.append(about | taken[name].sample | extra(taken[name]))
        for name in names:
            must_agree(f"{case.name}, {name}", taken[next(iter(ways))], taken[name])
    return [sample for sample in samples if sample["repeat"] >= 0]


def batches(sizes: Sequence[int]) -> dict[str, Way]:
    """Ways to pack the same experiments, captured in memory."""

    def packed(size: int) -> Way:
        return lambda case: in_memory(case, case.wanted, size)

    return {f"batches of {size}": packed(size) for size in sizes}


def fraction(case: Case, side: int = SIDE) -> Extra:
    """What share of the machine's rate a run reached, which is measured right after it.

    Readouts are counted as if no two experiments shared their last set: the share is, if anything, larger.
    """
    prompts = [len(case.model.prompt_tokens(text)) for text in case.grid.prompt_texts]

    def measured(taken: Taken) -> Sample:
        small = [kept.small for kept in taken.found.values()]
        unread = sum(prompts) - len(prompts) + sum(int(each["width"][-1]) for each in small)
        nodes, lengths = int(taken.sample["nodes"]), [len(each["token"]) for each in small]
        work = shapes.operations(case.model.facts, nodes, max(nodes - unread, 0), lengths) / 1e9
        found = {"gflops": work / taken.sample["wall_s"], "gflops_cpu": work / taken.sample["cpu_s"]} | rate(
            side
        )
        shares = {f"share{of}": found[f"gflops{of}"] / found[f"machine{of}"] * 100 for of in ("", "_cpu")}
        return found | shares

    return measured


def rate(side: int) -> Sample:
    """GFLOP a second, and a CPU second, of the best of three large float32 products."""
    import mlx.core as mx  # not before BLAS is prepared

    square = mx.random.normal((side, side), key=mx.random.key(0))
    mx.eval(square)
    clocks = [Clock() for _ in range(3)]
    for clock in clocks:
        with clock:
            mx.eval(square @ square)
    work = 2 * side**3 / 1e9
    return {"machine": work / min(c.wall for c in clocks), "machine_cpu": work / min(c.cpu for c in clocks)}


def summary(samples: Sequence[Row]) -> list[Row]:
    """Each way: what it took, with spread, and its seconds over those of the first way within each round."""
    rows = []
    first, *_ = names = list(dict.fromkeys(sample["way"] for sample in samples if sample["repeat"] == 0))
    for name in names:
        mine, base = ([s for s in samples if s["way"] == way] for way in (name, first))
        row = {key: mine[0][key] for key in ("case", "way", "passes", "nodes", "experiments")}
        row |= {"experiments_s": spread(s["experiments"] / s["wall_s"] for s in mine)}
        row |= {"nodes_s": spread(s["nodes"] / s["wall_s"] for s in mine)}
        row |= {"wall_ms": spread(s["wall_s"] / s["experiments"] * 1e3 for s in mine)}
        row |= {"cpu_ms": spread(s["cpu_s"] / s["experiments"] * 1e3 for s in mine)}
        row |= {key: spread(s[key] for s in mine) for key in mine[0] if key in MEASURED}
        for clock in ("wall", "cpu"):
            pairs = [(a[f"{clock}_s"], b[f"{clock}_s"]) for a, b in zip(mine, base, strict=True)]
            row[f"{clock}_added"] = spread((a / b - 1) * 100 for a, b in pairs)
            row[f"{clock}_times"] = spread(b / a for a, b in pairs)
        rows.append({"kind": "row"} | row)
    return rows
