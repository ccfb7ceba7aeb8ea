"""What work with a model costs on this machine: measured on a sample of a grid, kept for later forecasts."""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import model as models  # first: it prepares the BLAS before MLX is there  # isort: skip

import numpy as np
from scipy.optimize import nnls

from ..dataset.caches import user_folder
from ..dataset.cell import Cell
from ..dataset.grid import Grid
from ..dataset.store import Driver, Task
from ..errors import RunError
from . import cluster, engine, selftest
from .effort import Asked, Effort
from .model import Model
from .plan import planned
from .rows import Kept
from .run import run
from .tally import Summary

FILE = "calibration.json"
MOST_CELLS = 48  # of a sample: a pass of so many is packed well, and a run of more costs as much a node
BUDGET = 20.0  # seconds of sampling, beside what loads the model and starts a worker
ROUNDS = 2  # of all samples; the faster one counts, for what else a machine does only makes it slower
SHORT = 4  # sets, at most, of the samples that are cut
LADDER = ((1, True), (8, True), (1, False), (MOST_CELLS, True), (8, False), (MOST_CELLS, False))
SURE = 2  # samples that are taken whatever they cost: with fewer there is nothing to tell nodes from passes

COSTS = ("per_pass", "per_node", "per_cell", "per_file", "per_raw_byte")  # in the order of an Effort

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds that things take; of one model, on one machine."""

    date: str
    grid: str  # name of the grid the sample was of
    cells: int  # in the largest sample
    threads: int  # of BLAS in the process that was measured
    starting: float  # a run with the workers of `auto`, and ending it
    loading: float  # the model in a new process, and what else is slow for the first time there
    per_pass: float
    per_node: float
    per_cell: float
    per_file: float
    per_raw_byte: float
    per_fold: float  # a cell's receipt into the index, by the driver
    mean_width: float  # tokens in a set of the modes that take more than one

    def seconds(self, effort: Effort) -> float:
        """Time that a batch takes on a worker with its model loaded."""
        amounts = zip(COSTS, astuple(effort), strict=True)
        return float(sum(getattr(self, name) * amount for name, amount in amounts))

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Calibration":
        """As it was stored; ValueError, TypeError or KeyError where that is no calibration."""
        values = {each.name: stored[each.name] for each in fields(cls)}
        for name, value in values.items():
            if not isinstance(value, str if name in ("date", "grid") else int | float):
                raise TypeError(f"{name} is {value!r}")
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}")
        return cls(**values)


def calibrate(grid: Grid, tell: Tell = lambda text: None) -> Calibration:
    """Measure a sample of a grid on this machine, and keep the result for forecasts; loads the model."""
    asked = Asked.of(grid)
    cells, workers, threads = _chosen(asked)
    tell(f"starting and stopping {workers} worker{'s' * (workers > 1)}")
    came, loading = _ran(grid.model_copy(update={"replay": None, "max_tokens": 1}), workers, limit=workers)
    tell(f"loading {grid.model}")
    model = selftest.load(grid.model, threads)
    tell(f"running samples of {grid.name}, for about {BUDGET:.0f} s at most")
    made = replace(
        _fitted(asked, _sampled(asked, model, cells)),
        threads=threads,
        starting=came.seconds - loading,
        loading=loading,
    )
    del model
    made = _in_worker(asked, made, tell)
    _keep(asked.facts.sha256, made, tell)
    return made


def last(sha256: str) -> Calibration | None:
    """The calibration of a model on this machine, None where there is none that can be read."""
    try:
        return Calibration.from_dict(_read()[_key(sha256)])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class _Sample:
    """One batch, captured in memory and then into a cube."""

    cells: int
    in_memory: float
    into_cube: float
    folding: float
    effort: Effort
    widths: tuple[int, ...]

    def faster(self, other: "_Sample") -> "_Sample":
        """The better times of the same sample measured twice."""
        return replace(
            self,
            in_memory=min(self.in_memory, other.in_memory),
            into_cube=min(self.into_cube, other.into_cube),
            folding=min(self.folding, other.folding),
        )


def _chosen(asked: Asked) -> tuple[list[Cell], int, int]:
    """Cells from all over the grid that fit into memory together; workers, and BLAS threads of each."""
    groups: dict[Cell, list[Cell]] = {}
    for cell in asked.grid.cells():
        groups.setdefault(cell.leader or cell, []).append(cell)
    order = np.random.default_rng(0).permutation(len(groups))
    mixed = [list(groups.values())[i] for i in order]
    # leaders first, so that any number of cells from the front has those that others follow
    cells = [cell for group in mixed for cell in sorted(group, key=lambda cell: cell.replay is not None)]
    tasks = [Task("", "", (i,), cell, 1) for i, cell in enumerate(cells[:MOST_CELLS])]
    cores, free = os.cpu_count() or 1, cluster.free_here()
    spread = partial(planned, tasks, asked.needs, weights=models.weight_bytes(asked.grid.model), free=free)
    workers = spread(slots=cluster.devices() or cores).workers
    fitting = spread(slots=1, batch_size=MOST_CELLS).batches[0]
    each = max(1, int(os.environ.get("OPENBLAS_NUM_THREADS") or cores // workers))
    threads = 1 if asked.facts.hidden < selftest.WIDE else each
    return [task.cell for task in sorted(fitting, key=lambda task: task.index)], workers, threads


def _ran(grid: Grid, workers: int, limit: int | None = None) -> tuple[Summary, float]:
    """A run into a cube that is thrown away, and the seconds that its busiest worker computed and loaded."""
    with TemporaryDirectory(prefix="tempocube-") as folder:
        came = run(grid, Path(folder, "cube.zarr"), workers=workers, limit=limit, progress=None)
    if not came.ok:
        cell, reason = next(iter((came.failed | came.quarantined).items()))
        raise RunError(f"a sample cannot be run: {cell}: {reason}")
    return came, max(row["seconds"] for row in came.workers)


def _in_worker(asked: Asked, known: Calibration, tell: Tell) -> Calibration:
    """The same, with what else is slow in the first batch of a worker, if there is time to find that out."""
    part = _part(asked.grid)
    effort = asked.effort(part.cells(), known.mean_width)
    if known.seconds(effort) > BUDGET:
        return known
    tell("running a sample in a worker")
    came, busy = _ran(part, 1)
    passes, nodes = (sum(row[name] for row in came.workers) for name in ("passes", "nodes"))
    here = known.seconds(replace(effort, passes=passes, nodes=nodes))
    outside = came.seconds - busy - known.per_fold * came.done
    return replace(known, loading=max(known.loading, busy - here), starting=(known.starting + outside) / 2)


def _part(grid: Grid) -> Grid:
    """A grid of a few dozen cells with all modes and axes of a larger one."""
    points = len(grid.cells()) // len(grid.prompts) // len(grid.seeds)
    seeds = grid.seeds[: max(1, MOST_CELLS // points)]
    prompts = grid.prompts[: max(1, MOST_CELLS // (points * len(seeds)))]
    return grid.model_copy(update={"seeds": seeds, "prompts": prompts})


def _sampled(asked: Asked, model: Model, cells: Sequence[Cell]) -> list[_Sample]:
    """Larger and larger samples, as long as they are cheap, and all of them again if there is time."""
    began, found = time.perf_counter(), dict[tuple[int, bool], _Sample]()
    _sample(asked, model, cells[:1], short=True)  # what is slow for the first time is not part of it
    for rung in LADDER * ROUNDS:
        count, short = rung
        if len(found) >= SURE:
            guess = _guess(asked, _fitted(asked, list(found.values())), cells[:count], short)
            if time.perf_counter() - began + guess > BUDGET:
                continue
        sample = _sample(asked, model, cells[:count], short)
        found[rung] = sample.faster(found.get(rung, sample))
    return list(found.values())


def _guess(asked: Asked, known: Calibration, cells: Sequence[Cell], short: bool) -> float:
    effort = asked.effort(_cut(cells, short), known.mean_width)
    return known.seconds(effort) + known.seconds(replace(effort, files=0, raw=0))


def _cut(cells: Sequence[Cell], short: bool) -> list[Cell]:
    """The same cells, with a quarter of their sets if they are to be short, but `SHORT` at most."""
    if not short:
        return list(cells)
    return [replace(cell, max_tokens=max(1, min(SHORT, cell.max_tokens // 4))) for cell in cells]


def _sample(asked: Asked, model: Model, cells: Sequence[Cell], short: bool) -> _Sample:
    """Capture cells in memory and into a cube that is thrown away."""
    run, kept, began = _cut(cells, short), [Kept() for _ in cells], time.perf_counter()
    work = engine.capture(model, run, kept, asked.wanted)
    in_memory = time.perf_counter() - began
    shapes = [(len(each.small["token"]), len(each.small["width"])) for each in kept]
    stored = [asked.stored(*shape) for shape in shapes]
    effort = Effort(work.passes, work.nodes, len(run), *map(sum, zip(*stored, strict=True)))
    widths = [each.small["width"] for cell, each in zip(run, kept, strict=True) if cell.mode != "single"]
    with (
        TemporaryDirectory(prefix="tempocube-") as folder,
        Driver(Path(folder, "cube.zarr"), asked.grid, asked.facts, max(asked.prompts.values())) as driver,
    ):
        tasks = {task.cell: task for task in driver.todo()}
        into_cube = -time.perf_counter()
        left = [replace(tasks[cell], cell=own) for cell, own in zip(cells, run, strict=True)]
        writers = [task.writer() for task in left if not task.done()]
        engine.capture(model, run, writers, asked.wanted)
        into_cube += time.perf_counter()
        folding = -time.perf_counter()
        driver.fold()
        folding += time.perf_counter()
    flat = tuple(int(width) for each in widths for width in each)
    return _Sample(len(run), in_memory, into_cube, folding, effort, flat)


def _fitted(asked: Asked, samples: Sequence[_Sample]) -> Calibration:
    """The costs that are nearest to the samples; relative to each, and none of them negative."""
    rows, seconds = [], []
    for each in samples:
        rows += [astuple(replace(each.effort, files=0, raw=0)), astuple(each.effort)]
        seconds += [each.in_memory, each.into_cube]
    matrix = np.array(rows) / np.array(seconds)[:, None]
    scale = np.maximum(matrix.max(axis=0), 1e-300)  # bytes are many, passes few
    costs = nnls(matrix / scale, np.ones(len(rows)))[0] / scale
    fold = nnls(np.array([[1.0, each.cells] for each in samples]), np.array([s.folding for s in samples]))[0]
    widths = max((each.widths for each in samples), key=len)  # of the sample that has taken the most sets
    return Calibration(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        grid=asked.grid.name,
        cells=max(each.cells for each in samples),
        threads=1,
        starting=0.0,
        loading=0.0,
        per_fold=float(fold[1]),
        mean_width=float(np.mean(widths or (1,))),
        **dict(zip(COSTS, map(float, costs), strict=True)),
    )


def _key(sha256: str) -> str:
    return f"{sha256} {socket.gethostname()} {os.cpu_count()}"


def _read() -> dict[str, Any]:
    """What is kept; nothing, where that cannot be read."""
    try:
        stored = json.loads((user_folder() / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _keep(sha256: str, made: Calibration, tell: Tell) -> None:
    """Put it beside those of other models and machines, whole or not at all."""
    path = user_folder() / FILE
    text = json.dumps(_read() | {_key(sha256): asdict(made)}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="making-", dir=path.parent) as folder:
            made_there = Path(folder, FILE)
            made_there.write_text(text, "utf-8")
            made_there.replace(path)
    except OSError as error:
        tell(f"this calibration cannot be kept for later: {error}")
