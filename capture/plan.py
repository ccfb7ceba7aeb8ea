"""Which cells go through the model together: those that share a prompt, and followers with their leader."""

from collections.abc import Callable, Sequence

from ..dataset.cell import Cell
from ..dataset.store import Task
from ..errors import BadInput

Needs = Callable[[Sequence[Task]], int]

MOST_CELLS = 128  # more in one pass gain nothing, and all of them are lost with a worker


def batches(
    tasks: Sequence[Task], needs: Needs, *, room: int, workers: int = 1, most: int | None = None
) -> list[tuple[Task, ...]]:
    """Batches of at most `most` cells (None: as many as serve all workers) that fit into `room` bytes.

    `needs` says how many bytes tasks need together: see `memory.needed`.
    """
    groups = _together(tasks)
    fair = min(MOST_CELLS, -(-len(tasks) // workers))
    limit = most if most is not None else max(fair, *map(len, groups), 1)
    made: list[list[Task]] = []
    for group in groups:
        joined = [*made[-1], *group] if made else []
        if joined and len(joined) <= limit and needs(joined) <= room:
            made[-1] = joined
        else:
            made += _fitting(group, needs, limit, room)
    return [tuple(batch) for batch in made]


def _together(tasks: Sequence[Task]) -> list[list[Task]]:
    """Groups that ought not be torn apart: a leader and its followers; those of one prompt side by side."""
    groups: dict[tuple[str, Cell], list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.index):
        groups.setdefault((task.cell.prompt, task.cell.leader or task.cell), []).append(task)
    by_prompt: dict[str, list[list[Task]]] = {}
    for (prompt, _), group in groups.items():
        by_prompt.setdefault(prompt, []).append(group)
    return [group for own in by_prompt.values() for group in own]


def _fitting(group: list[Task], needs: Needs, limit: int, room: int) -> list[list[Task]]:
    """A group as it is, or cell by cell where that is too much: a follower can read its leader's track."""
    if len(group) <= limit and needs(group) <= room:
        return [group]
    for task in group:
        if (alone := needs([task])) > room:
            raise BadInput(
                f"prompt {task.cell.prompt[:40]!r} ({task.cell.mode}) alone needs {alone / 1e6:,.0f} MB of a "
                f"worker's {room / 1e6:,.0f} MB; lower max_tokens or max_width, set max_slots, capture fewer "
                "layers, or use fewer workers"
            )
    return [[task] for task in sorted(group, key=lambda task: task.cell.replay is not None)]
