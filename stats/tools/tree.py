"""The tokens of an experiment as a tree: what each readout offered, what was taken, what was pruned later."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import BadInput
from ..questions import plain
from ..view import View
from .text import bar, cut, label

__all__ = ["Node", "Tree", "d3", "lines", "to_dict", "tree"]

NAME = 16  # cells of a token
BAR = 20


@dataclass(frozen=True, slots=True)
class Node:
    """A token that a step offered; slot is None, and kept False, for one that was not taken.

    pruned_at is the step from which it is hidden, None for one that stays.
    """

    step: int
    rank: int
    slot: int | None
    token: int
    label: str
    probability: float
    kept: bool
    pruned_at: int | None


@dataclass(frozen=True, slots=True)
class Tree:
    """An experiment's nodes by step, each in order of rank: the tokens that were taken, then dropped ones."""

    name: str
    prompt: str
    thresholds: tuple[float, ...]
    steps: tuple[tuple[Node, ...], ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All tokens that were taken: as many as the widths of the sets come to."""
        return tuple(node for nodes in self.steps for node in nodes if node.kept)


def tree(view: View, dropped: int = 0) -> Tree:
    """The tree of an experiment, with up to so many of the best tokens that each step left out."""
    if dropped < 0:
        raise BadInput(f"dropped: 0 or more tokens of each step, got {dropped}")
    steps = tuple(tuple(_nodes(view, step, dropped)) for step in range(view.steps))
    return Tree(view.name, view.prompt_text, tuple(map(float, view.threshold_used)), steps)


def to_dict(of: Tree) -> dict[str, Any]:
    """The tree as JSON has it: one entry a step, one a token."""
    steps = [
        {"step": i, "threshold": threshold, "width": sum(node.kept for node in nodes), "nodes": nodes}
        for i, (threshold, nodes) in enumerate(zip(of.thresholds, of.steps, strict=True))
    ]
    told = [step | {"nodes": [asdict(node) for node in step["nodes"]]} for step in steps]  # type: ignore[attr-defined]
    return dict(plain({"experiment": of.name, "prompt": of.prompt, "nodes": len(of.nodes), "steps": told}))


def d3(of: Tree) -> dict[str, Any]:
    """The tree as d3.hierarchy takes it: name and children.

    All tokens of a set lead to the same next set, which hangs on the best of them that was not pruned.
    """
    children: list[dict[str, Any]] = []
    for nodes in reversed(of.steps):
        level = [_named(node) for node in nodes]
        if children and level:
            level[_carrier(nodes)]["children"] = children
        children = level
    return {"name": of.prompt, "children": children}


def lines(of: Tree, width: int = 100, encoding: str = "utf-8") -> list[str]:
    """The tree as text: a line a token, its probability as a bar, what became of it."""
    told = [label(of.prompt, encoding=encoding)]
    for step, nodes in enumerate(of.steps):
        for i, node in enumerate(nodes):
            head = f"{step:>4}" if i == 0 else "    "
            told.append(f"{head}  {_line(node, i == len(nodes) - 1, len(nodes), encoding)}")
    return [cut(line.rstrip(), width) for line in told]


def _nodes(view: View, step: int, dropped: int) -> Iterator[Node]:
    slots = iter(view.of_step(step))
    left = dropped
    for rank, each in enumerate(view.candidates(step)):
        slot = next(slots) if each.kept else None
        if slot is None:
            left -= 1
        if left < 0:
            return
        gone = int(view.pruned_at[slot]) if slot is not None else -1
        told = (each.token, each.label, float(each.probability), each.kept)
        yield Node(step, rank, slot, *told, gone if gone >= 0 else None)


def _named(node: Node) -> dict[str, Any]:
    told: dict[str, Any] = plain(asdict(node))
    return {"name": told.pop("label"), **told, "pruned": node.pruned_at is not None}


def _carrier(nodes: tuple[Node, ...]) -> int:
    """The token that the next set hangs on."""
    alive = [i for i, node in enumerate(nodes) if node.kept and node.pruned_at is None]
    return alive[0] if alive else 0


def _line(node: Node, last: bool, siblings: int, encoding: str) -> str:
    branch = "---" if siblings == 1 else "`--" if last else "+--"
    mark = "x" if node.pruned_at is not None else " " if node.kept else "-"
    share = f"{node.probability:.3f}" if np.isfinite(node.probability) else "  ?  "
    fate = (
        f"pruned from step {node.pruned_at} on"
        if node.pruned_at is not None
        else ""
        if node.kept
        else "not taken"
    )
    text = label(node.label, NAME, encoding)
    return f"{branch}{mark} {text} {share} {bar(node.probability, 1.0, BAR):{BAR}} {fate}"
