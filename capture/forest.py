"""The forest: experiments with the same history share its nodes, and part when their histories do.

A node is a token fed once; a branch is one history, an ordered list of nodes, with the experiments that have
it. Bookkeeping only, in numpy: nothing here knows a model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..dataset.schema import BLOCK
from ..dataset.visibility import NEVER, PROMPT, existence, visibility

Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

MOST_PAIRS = 1 << 19  # (query, key) pairs a head in one batched operation: more gain nothing and need memory
CHEAP_PAIRS = 1 << 12  # as many cost about what one more batched operation does
SINGLE = "single"  # any mode will do while no set was wide: nobody has a sibling


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One history: (slot,) arrays in physical order, and the experiments that share it.

    `sight` is the visibility applied since the first set of width >= 2; until then every mode is the same.
    """

    members: tuple[int, ...]
    ablate: tuple[str, ...]
    sight: str
    node: Ints
    token: Ints
    logical: Ints
    slot_step: Ints
    pruned_at: Ints
    _seen: dict[tuple[int, str, int | None], Mask] = field(default_factory=dict, init=False)

    @property
    def slots(self) -> int:
        """How many there are."""
        return self.node.size

    def existing(self, rows: slice) -> Mask:
        """(row, slot): keys that had been fed when these rows were computed."""
        return existence(self.slot_step, rows)

    def seen(self, rows: slice, mode: str | None = None, window: int | None = None) -> Mask:
        """(row, slot): keys that these rows see, as applied, or as another mode would have it."""
        mode = self.sight if mode is None or self.sight == SINGLE else mode
        key = rows.start, mode, window
        if key not in self._seen:
            told = self.logical, self.slot_step, self.pruned_at
            self._seen[key] = visibility(mode, *told, window, rows)
        return self._seen[key]


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """A branch with rows that have not been fed yet: its last ones, nodes `start` ... of the pass."""

    branch: Branch
    rows: slice
    start: int

    @property
    def count(self) -> int:
        """How many rows are new."""
        return int(self.rows.stop - self.rows.start)

    @property
    def nodes(self) -> slice:
        """Where they stand among the nodes of the pass."""
        return slice(self.start, self.start + self.count)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Growths of about the same shape, so that one batched operation computes their attention.

    query (growth, row): which node of the pass; key (growth, slot): which node of the pool; both padded where
    the masks `see` (by window: (growth, row, slot)) are False. Keys are padded with one of the branch's own,
    for 0 times another's value would not be 0 if that is not finite.
    """

    growths: tuple[Growth, ...]
    query: Ints
    key: Ints
    see: dict[int | None, Mask]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """All that one forward pass is given: (node,) tokens and positions, and who attends to whom."""

    token: Ints
    logical: Ints
    growths: tuple[Growth, ...]
    blocks: tuple[Block, ...]


class Forest:
    """All branches of a batch of experiments, and how many nodes they came to."""

    def __init__(self, windows: Iterable[int | None] = ()) -> None:
        self.windows = tuple(dict.fromkeys(windows)) or (None,)
        self.nodes = 0
        self.branches: list[Branch] = []

    def plant(
        self, prompts: Sequence[tuple[int, ...]], ablations: Sequence[tuple[str, ...]]
    ) -> Iterator[Feed]:
        """One branch for all experiments with the same prompt and ablation, and passes that feed them.

        Experiment i has prompts[i]. A pass takes a block of each prompt, to bound its memory.
        """
        trees: dict[tuple[tuple[int, ...], tuple[str, ...]], list[int]] = {}
        for member, tree in enumerate(zip(prompts, ablations, strict=True)):
            trees.setdefault(tree, []).append(member)
        none = np.zeros(0, np.int32)
        for (prompt, ablate), members in trees.items():
            root = Branch(tuple(members), ablate, SINGLE, none, none, none, none, none)
            self.branches.append(_longer(root, none, prompt, np.arange(len(prompt)), PROMPT))
        passes = []
        for start in range(0, max(map(len, prompts)), BLOCK):
            rows = [slice(start, min(start + BLOCK, branch.logical.size)) for branch in self.branches]
            passes.append([(i, part) for i, part in enumerate(rows) if part.start < part.stop])
            for i, part in passes[-1]:
                nodes = np.concatenate([self.branches[i].node, self._new(part.stop - part.start)])
                self.branches[i] = replace(self.branches[i], node=nodes)
        for each in passes:
            yield self._feed([(self.branches[i], part) for i, part in each])

    def grow(
        self, sets: Mapping[int, tuple[int, ...]], sights: Sequence[str], pruned: Sequence[Ints]
    ) -> Feed:
        """Every member goes on with its set, members whose histories now differ part; the pass that feeds it.

        `sets` has no entry for a member that has ended; `sights` (what a member's siblings would see of each
        other) and `pruned` (its pruned_at) are by member.
        """
        grown: list[Branch] = []
        for branch in self.branches:
            parts: dict[tuple[tuple[int, ...], str, bytes], list[int]] = {}
            for member in branch.members:
                if member in sets:
                    wide = branch.sight == SINGLE and len(sets[member]) > 1
                    sight = sights[member] if wide else branch.sight
                    parts.setdefault((sets[member], sight, pruned[member].tobytes()), []).append(member)
            for (tokens, sight, _), members in parts.items():
                own = replace(branch, members=tuple(members), sight=sight, pruned_at=pruned[members[0]])
                position, step = int(branch.logical[-1]) + 1, int(branch.slot_step[-1]) + 1
                grown.append(_longer(own, self._new(len(tokens)), tokens, position, step))
        self.branches = grown
        new = [
            (branch, slice(int(np.argmax(branch.slot_step == branch.slot_step[-1])), branch.slots))
            for branch in grown
        ]
        return self._feed(new)

    def _new(self, count: int) -> Ints:
        """The next nodes: they are numbered in the order in which they are fed."""
        self.nodes += count
        return np.arange(self.nodes - count, self.nodes, dtype=np.int32)

    def _feed(self, rows: Sequence[tuple[Branch, slice]]) -> Feed:
        growths, start = [], 0
        for branch, part in rows:
            growths.append(Growth(branch, part, start))
            start += growths[-1].count
        token = np.concatenate([g.branch.token[g.rows] for g in growths])
        logical = np.concatenate([g.branch.logical[g.rows] for g in growths])
        blocks = []
        for alike in _alike(growths):
            room = max(1, MOST_PAIRS * len(alike) // _pairs(alike))
            blocks += [self._block(tuple(alike[i : i + room])) for i in range(0, len(alike), room)]
        return Feed(token, logical, tuple(growths), tuple(blocks))

    def _block(self, growths: tuple[Growth, ...]) -> Block:
        rows, keys = max(g.count for g in growths), max(g.rows.stop for g in growths)
        query = np.zeros((len(growths), rows), np.int32)
        key = np.zeros((len(growths), keys), np.int32)
        see = {window: np.zeros((len(growths), rows, keys), bool) for window in self.windows}
        for i, growth in enumerate(growths):
            query[i, : growth.count] = np.arange(growth.nodes.start, growth.nodes.stop)
            key[i] = growth.branch.node[0]
            key[i, : growth.rows.stop] = growth.branch.node[: growth.rows.stop]
            for window, mask in see.items():
                seen = growth.branch.seen(growth.rows, window=window)
                mask[i, : growth.count, : growth.rows.stop] = seen[:, : growth.rows.stop]
        return Block(growths, query, key, see)


def _longer(branch: Branch, nodes: Ints, tokens: Sequence[int], logical: npt.ArrayLike, step: int) -> Branch:
    """The branch with more slots."""

    def more(values: Ints, added: npt.ArrayLike) -> Ints:
        return np.concatenate([values, np.broadcast_to(np.asarray(added, np.int32), len(tokens))])

    return replace(
        branch,
        node=np.concatenate([branch.node, nodes]),
        token=more(branch.token, tokens),
        logical=more(branch.logical, logical),
        slot_step=more(branch.slot_step, step),
        pruned_at=more(branch.pruned_at, NEVER),
    )


def _alike(growths: Sequence[Growth]) -> list[list[Growth]]:
    """Growths by shape; shapes go together where padding the smaller costs less than an operation more."""
    shapes: dict[tuple[int, int], list[Growth]] = {}
    for growth in growths:
        shapes.setdefault((_rounded(growth.rows.stop), _rounded(growth.count)), []).append(growth)
    groups: list[list[Growth]] = []
    for shape in sorted(shapes):
        both = groups[-1] + shapes[shape] if groups else []
        if both and _pairs(both) <= _pairs(groups[-1]) + _pairs(shapes[shape]) + CHEAP_PAIRS:
            groups[-1] = both
        else:
            groups.append(shapes[shape])
    return groups


def _pairs(growths: Sequence[Growth]) -> int:
    """(query, key) pairs of a block of them, padded ones included."""
    rows, keys = max(g.count for g in growths), max(int(g.rows.stop) for g in growths)
    return len(growths) * rows * keys


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
