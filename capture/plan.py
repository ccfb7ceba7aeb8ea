"""Which cells go through the model together, on how many workers, in how much memory each."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..dataset.cell import Cell
from ..dataset.store import Task
from ..errors import BadInput

Needs = Callable[[Sequence[Task]], int]
Groups = Sequence[Sequence[Task]]

MOST_CELLS = 48  # more in one pass gain little, and all that are under way are lost with a worker
SHARE = 0.8  # of the free memory that a plan may use; the rest is for what others do meanwhile
PROCESS = 450_000_000  # bytes of a worker before it has a model: Python, Dask, MLX, numpy, the cube's readers


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is spread."""

    batches: tuple[tuple[Task, ...], ...]
    workers: int
    weights: int  # bytes of the model in each worker
    room: int  # bytes that a worker has for its batch
    largest: int  # bytes that the largest batch needs
    free: int  # bytes free on all machines together, before

    @property
    def each(self) -> int:
        """Bytes that a worker may come to."""
        return PROCESS + self.weights + self.largest


def planned(
    tasks: Sequence[Task],
    needs: Needs,
    *,
    weights: int,
    free: int,
    slots: int,
    workers: int | str = "auto",
    batch_size: int | str = "auto",
    fair: int = MOST_CELLS,
) -> Plan:
    """Spread tasks over workers so that all fit into `free` bytes; `slots`: workers that could work at once.

    `fair`: cells in a batch at most, unless `batch_size` says otherwise.

    `needs` says how many bytes tasks need together: see `memory.needed`.
    """
    most = _number("batch_size", batch_size) if batch_size != "auto" else None
    alike = {replace(task.cell, seed=0): task for task in tasks}  # a seed needs no memory of its own
    smallest = max(needs([task]) for task in alike.values())
    each = PROCESS + weights + smallest
    if workers == "auto":
        count = max(1, min(slots, len(tasks), int(SHARE * free / each)))
    else:
        count = min(_number("workers", workers), len(tasks))
    room = int(SHARE * free / count) - PROCESS - weights
    if room < smallest:
        raise BadInput(_too_much(count, weights, smallest, free))
    made = tuple(batches(tasks, needs, room=room, workers=count, most=most, fair=fair))
    return Plan(made, count, weights, room, max(map(needs, made)), free)


def batches(
    tasks: Sequence[Task],
    needs: Needs,
    *,
    room: int,
    workers: int = 1,
    most: int | None = None,
    fair: int = MOST_CELLS,
) -> list[tuple[Task, ...]]:
    """Batches of at most `most` cells (None: as many as serve all workers) that fit into `room` bytes."""
    groups = _together(tasks)
    made: list[tuple[Task, ...]] = []
    for part in _upto(groups, most) if most is not None else _alike(groups, workers, fair):
        left = list(part)
        while left:
            count = len(left)
            while count > 1 and needs(_joined(left[:count])) > room:
                count //= 2
            batch, left = _joined(left[:count]), left[count:]
            if len(batch) <= (most or len(batch)) and needs(batch) <= room:
                made.append(batch)
            else:  # cell by cell: a follower can read its leader's track from the cube
                made += [(task,) for task in leaders_first(batch)]
    return made


def _alike(groups: Groups, workers: int, fair: int) -> Iterator[Groups]:
    """As many parts for each worker, all of about one size; a prompt's cells stay together if they can."""
    ends = np.cumsum([len(group) for group in groups])
    if not groups:
        return
    parts = workers * math.ceil(ends[-1] / workers / fair)
    size, start = ends[-1] / parts, 0
    whole = np.array([i for i in range(1, len(groups) + 1) if _turns(groups, i)])
    for number in range(1, parts + 1):
        if start == len(groups):
            return
        near = whole[np.abs(ends[whole - 1] - number * size).argmin()]
        if abs(ends[near - 1] - number * size) > size / 2 or near <= start:
            near = max(start, int(np.abs(ends - number * size).argmin())) + 1
        stop = len(groups) if number == parts else int(near)
        yield groups[start:stop]
        start = stop


def _upto(groups: Groups, most: int) -> Iterator[Groups]:
    """Parts of at most so many cells, if a group has not more; cut between prompts if that is possible."""
    start = 0
    while start < len(groups):
        stop, size = start + 1, len(groups[start])
        while stop < len(groups) and size + len(groups[stop]) <= most:
            size, stop = size + len(groups[stop]), stop + 1
        between = [i for i in range(start + 1, stop + 1) if _turns(groups, i)]
        stop = between[-1] if between else stop
        yield groups[start:stop]
        start = stop


def _turns(groups: Groups, i: int) -> bool:
    """Whether a prompt ends before this place."""
    return i == len(groups) or groups[i - 1][0].cell.prompt != groups[i][0].cell.prompt


def _joined(groups: Groups) -> tuple[Task, ...]:
    return tuple(task for group in groups for task in group)


def leaders_first(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks, those that others follow at the front."""
    return sorted(tasks, key=lambda task: task.cell.replay is not None)


def after_leaders(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks in the same order, but none before the one that it follows."""
    by_cell = {task.cell: task for task in tasks}
    ordered: dict[Task, None] = {}
    for task in tasks:
        leader = by_cell.get(task.cell.leader) if task.cell.leader else None
        ordered |= dict.fromkeys([leader, task] if leader else [task])
    return list(ordered)


def halves(batch: Sequence[Task]) -> list[tuple[Task, ...]]:
    """A batch that went wrong as two, the first without need of the second."""
    ordered = leaders_first(batch)
    middle = (len(ordered) + 1) // 2
    return [tuple(ordered[:middle]), tuple(ordered[middle:])]


def _together(tasks: Sequence[Task]) -> list[list[Task]]:
    """Groups that ought not be torn apart: a leader and its followers; those of one prompt side by side."""
    groups: dict[tuple[str, Cell], list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.index):
        groups.setdefault((task.cell.prompt, task.cell.leader or task.cell), []).append(task)
    by_prompt: dict[str, list[list[Task]]] = {}
    for (prompt, _), group in groups.items():
        by_prompt.setdefault(prompt, []).append(group)
    return [group for own in by_prompt.values() for group in own]


def _too_much(workers: int, weights: int, batch: int, free: int) -> str:
    """What was asked for and what there is, as a sum."""
    each = PROCESS + weights + batch
    usable = int(SHARE * free)
    sums = (
        f"{workers} worker{'s' * (workers > 1)} x {_gb(each)} (process {_gb(PROCESS)}, model {_gb(weights)}, "
        f"largest cell {_gb(batch)}) = {_gb(workers * each)}, and {_gb(usable)} of {_gb(free)} free memory "
        "may be used"
    )
    if workers > 1 and (fit := usable // each):
        return f"{sums}; use --workers {fit}"
    return f"{sums}; lower max_tokens or max_width, set max_slots, or capture fewer layers"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _number(option: str, given: int | str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise BadInput(f"{option}: a number from 1 on, or auto, got {given!r}")
    return given
