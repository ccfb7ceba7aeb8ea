"""The texts that a tree holds: one token of each set, weighted by what their readouts gave them."""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from ...errors import BadInput
from ..view import View

__all__ = ["Found", "Paths", "paths"]


@dataclass(frozen=True, slots=True)
class Found:
    """A path: its slots, its text, and its share of all paths; logprob is of the product, not normalised."""

    slots: tuple[int, ...]
    text: str
    share: float
    logprob: float
    pruned: bool


@dataclass(frozen=True, slots=True)
class Paths:
    """How many paths there are, the log of the sum of their probabilities, and the best, best first.

    The shares of all of them sum to 1; `told` is what the best ones listed come to.
    """

    count: int
    log_total: float
    best: tuple[Found, ...]

    @property
    def told(self) -> float:
        """The share of the paths that are listed."""
        return math.fsum(each.share for each in self.best)


def paths(view: View, most: int = 10, *, pruned: bool = True) -> Paths:
    """The best paths of an experiment; `pruned=False` leaves out tokens that were pruned later.

    One token is taken of each set, so the sum over all paths is a product of sums: nothing is enumerated.
    """
    if most < 1:
        raise BadInput(f"most: at least one path, got {most}")
    sets = [_members(view, step, pruned) for step in range(view.steps)]
    logs = [np.log(view.probability[own].astype(np.float64)) for own in sets]
    total = math.fsum(float(np.logaddexp.reduce(each)) for each in logs)
    best = [_found(view, sets, logs, choice, total) for choice in _best(logs, most)]
    return Paths(math.prod(map(len, sets)) if sets else 0, total, tuple(best) if sets else ())


def _members(view: View, step: int, pruned: bool) -> list[int]:
    """Slots of a set from the most probable on."""
    slots = [slot for slot in view.of_step(step) if pruned or view.pruned_at[slot] < 0]
    return sorted(slots, key=lambda slot: (-float(view.probability[slot]), slot))


def _best(logs: list[np.ndarray], most: int) -> list[tuple[int, ...]]:
    """The choices with the largest sums, in order: of each, only later sets are turned further.

    So each choice is reached in one way only, and never before a better one.
    """
    start = (0,) * len(logs)
    queue = [(-math.fsum(float(each[0]) for each in logs), 0, start)]
    found: list[tuple[int, ...]] = []
    while queue and len(found) < most:
        cost, turned, choice = heapq.heappop(queue)
        found.append(choice)
        for at in range(turned, len(logs)):
            step = logs[at]
            if choice[at] + 1 < len(step):
                further = float(step[choice[at]] - step[choice[at] + 1])
                heapq.heappush(queue, (cost + further, at, (*choice[:at], choice[at] + 1, *choice[at + 1 :])))
    return found


def _found(
    view: View, sets: list[list[int]], logs: list[np.ndarray], choice: tuple[int, ...], total: float
) -> Found:
    slots = tuple(own[i] for own, i in zip(sets, choice, strict=True))
    logprob = math.fsum(float(each[i]) for each, i in zip(logs, choice, strict=True))
    text = "".join(view.labels[slot] for slot in slots)
    gone = any(view.pruned_at[slot] >= 0 for slot in slots)
    return Found(slots, text, math.exp(logprob - total), logprob, gone)
