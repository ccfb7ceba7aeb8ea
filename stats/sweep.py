"""One pass over the attention of experiments that differ in mode, in blocks of rows by layers.

Only pairs of tokens that existed are decoded. What is kept of them: means over layers and heads, the
down-weighting of every head (a fixed linear function of its log attention), and differences between modes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.encoding import decode
from ..dataset.schema import BLOCK
from .estimand import Floats, coefficients, context, terms, with_both
from .subjects import Experiment, Subjects, slots_before

Array = npt.NDArray[Any]
Weights = npt.NDArray[np.float32]

READ_BYTES = 64 << 20  # codes of one experiment that a thread holds
LAYER_BYTES = 16 << 20  # one layer's rows, decoded
SAME_WEIGHT = 1e-5  # stored as float32, the same content is within this
SAME_CODE = 1  # stored as log16, this many codes apart


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some rows of one experiment: the (query, key) pairs that existed.

    `flat` is where they lie in the block of (row, key), laid out flat.
    """

    rows: slice
    keys: int
    query: Array
    key: Array
    flat: Array


class Tally:
    """What is summed up of one experiment.

    log, weight: (query, key), means over layers and heads, NaN where nothing was captured; by_head: (layer,
    head), delta of each; most: the largest weight on a sibling.
    """

    def __init__(self, of: Experiment, layers: int, heads: int) -> None:
        where = of.layout
        self.of, self.count = of, layers * heads
        self.log, self.weight = (np.full((of.slots, of.slots), np.nan) for _ in range(2))
        self.by_head = np.zeros((layers, heads))
        self.most = 0.0
        keys = with_both(context(where), where.parallel)
        self._share = coefficients(terms(keys, where.distance, where.parallel, where.weight))
        self._sibling, self._hidden = where.siblings, where.there & ~where.sees

    def part(self, start: int, size: int) -> Part:
        """The block of rows from `start` on."""
        where, rows = self.of.layout, slice(start, min(start + size, self.of.slots))
        there = where.there[rows] & where.kept[rows, None]
        used = np.flatnonzero(there.any(axis=0))
        keys = int(used[-1]) + 1 if used.size else 0
        query, key = np.nonzero(there)
        return Part(rows, keys, query + start, key, query * keys + key)

    def begin(self, part: Part) -> None:
        """Get ready for the layers of a block."""
        at = part.query, part.key
        self._sums = np.zeros((2, part.query.size))
        self._c = np.nan_to_num(self._share[at]).astype(np.float32)
        self._unseen, self._of_siblings = (np.flatnonzero(m[at]) for m in (self._hidden, self._sibling))

    def add(self, layer: int, logs: Weights, weights: Weights) -> None:
        """One layer: (head, pair), as decoded; `logs` is used up."""
        self._sums[0] += logs.sum(axis=0)
        self._sums[1] += weights.sum(axis=0)
        if self._of_siblings.size:
            # rows that were not captured are NaN, which fmax passes over
            self.most = float(np.fmax.reduce(weights[:, self._of_siblings], axis=None, initial=self.most))
        logs[:, self._unseen] = 0
        with np.errstate(invalid="ignore"):  # a weight that underflowed, as log
            found = logs @ self._c
            if not np.isfinite(found).all():  # what does not count must not spoil what does
                used = self._c != 0
                found = logs[:, used] @ self._c[used]
        self.by_head[layer] += found

    def end(self, part: Part) -> None:
        """Keep the means of a block."""
        at = part.query, part.key
        self.log[at], self.weight[at] = self._sums / self.count

    def maps(self) -> Floats:
        """(layer, head): delta of each head; NaN if it is not defined, or a key that counts has no weight."""
        undefined = not np.isfinite(self._share).any()
        return np.where(np.isfinite(self.by_head) & (not undefined), self.by_head, np.nan)


class Match:
    """Differences of two experiments' weights, over the rows before their sets differ.

    most, total: (query, key), the largest over layers and heads, and the sum; by_layer: (layer,), the largest
    where both see the key; identical: no weight differs by more than storing it does.
    """

    def __init__(self, one: Tally, other: Tally, step: int, layers: int, packed: bool) -> None:
        self.one, self.other, self.step = one, other, step
        self.rows = slots_before(one.of, step)
        self.most, self.total = (np.full((self.rows, self.rows), np.nan) for _ in range(2))
        self.by_layer = np.full(layers, np.nan)
        self.identical = True
        self.moments = np.zeros(6)  # n, a, b, aa, bb, ab where both see the key
        self._packed = packed
        square = slice(self.rows), slice(self.rows)
        self.both = one.of.layout.sees[square] & other.of.layout.sees[square]

    def begin(self, part: Part) -> None:
        """Get ready for the layers of a block."""
        self._n = int(np.searchsorted(part.query, self.rows))
        self._at = part.query[: self._n], part.key[: self._n]
        self._apart = np.flatnonzero(~self.both[self._at])
        self._seen = np.flatnonzero(self.both[self._at])
        self._most, self._total = np.zeros(self._n, np.float32), np.zeros(self._n)

    def add(self, layer: int, a: Weights, b: Weights, stored: tuple[Array, Array]) -> None:
        """One layer of both: (head, pair) weights, and the same as stored."""
        if not self._n:
            return
        a, b = a[:, : self._n], b[:, : self._n]
        gap = np.abs(a - b)
        most = gap.max(axis=0)
        np.maximum(self._most, most, out=self._most)
        self._total += gap.sum(axis=0)
        seen = most[self._seen].max(initial=0)
        self.by_layer[layer] = seen if np.isnan(self.by_layer[layer]) else max(self.by_layer[layer], seen)
        if self.identical:
            self.identical = self._same(most, *(each[:, : self._n] for each in stored))
        self.moments[0] += len(a) * self._seen.size
        self.moments[1:] += _sums(a, b) - _sums(a[:, self._apart], b[:, self._apart])

    def end(self) -> None:
        """Keep the differences of a block."""
        self.most[self._at], self.total[self._at] = self._most, self._total

    def _same(self, most: Weights, one: Array, other: Array) -> bool:
        if not self._packed:
            return bool((most <= SAME_WEIGHT).all())
        return bool((np.abs(one.astype(np.int32) - other) <= SAME_CODE).all())


def sweep(
    subjects: Subjects,
    group: Sequence[Experiment],
    pairs: Sequence[tuple[int, int, int]],
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[list[Tally], list[Match]]:
    """Tallies of a group, and matches of the pairs in it: numbers of two, and the step where they part."""
    layers, heads, name = len(subjects.layers), len(subjects.heads), subjects.attention
    tallies = [Tally(of, layers, heads) for of in group]
    packed = name == "log_attention"
    matches = [Match(tallies[i], tallies[j], step, layers, packed) for i, j, step in pairs]
    slots = max(of.slots for of in group)
    size = _rows(subjects.cube.facts.heads, slots)
    for start in range(0, slots, size):
        if stopped():
            break
        parts = [tally.part(start, size) for tally in tallies]
        for tally, part in zip(tallies, parts, strict=True):
            tally.begin(part)
        for match, (i, _, _) in zip(matches, pairs, strict=True):
            match.begin(parts[i])
        for layer, found in _layers(subjects, group, parts):
            for match, (i, j, _) in zip(matches, pairs, strict=True):
                match.add(layer, found[i][2], found[j][2], (found[i][0], found[j][0]))
            for tally, (_, logs, weights) in zip(tallies, found, strict=True):
                tally.add(layer, logs, weights)
        for tally, part in zip(tallies, parts, strict=True):
            tally.end(part)
        for match in matches:
            match.end()
    return tallies, matches


def _layers(
    subjects: Subjects, group: Sequence[Experiment], parts: Sequence[Part]
) -> Iterator[tuple[int, list[tuple[Array, Weights, Weights]]]]:
    """Layer by layer: of each experiment the pairs (head, pair) as stored, as logs, as weights."""
    name = subjects.attention
    every = subjects.heads == tuple(range(subjects.cube.facts.heads))
    widest = max(subjects.cube.facts.heads * BLOCK * part.keys * 4 for part in parts)
    for run in _runs(subjects.layers, max(1, READ_BYTES // max(widest, 1))):
        blocks = [
            _read(subjects, str(name), of, part, slice(subjects.layers[run[0]], subjects.layers[run[-1]] + 1))
            for of, part in zip(group, parts, strict=True)
        ]
        for i, layer in enumerate(run):
            found = []
            for block, part in zip(blocks, parts, strict=True):
                rows = block[i].reshape(len(block[i]), -1)
                stored = (rows if every else rows[list(subjects.heads)]).take(part.flat, axis=1)
                found.append((stored, *_decoded(stored, str(name))))
            yield layer, found


def _read(subjects: Subjects, name: str, of: Experiment, part: Part, layers: slice) -> Array:
    """(layer, head, row, key) as stored."""
    if not part.query.size:
        return np.empty((layers.stop - layers.start, subjects.cube.facts.heads, 0, 0), np.float32)
    place: Any = (*of.index, layers, slice(None), part.rows, slice(part.keys))
    return subjects.cube.read(name, place)


def _decoded(stored: Array, name: str) -> tuple[Weights, Weights]:
    """Logs and weights of what is stored."""
    if name == "log_attention":
        return decode(stored, "attention", logs=True), decode(stored, "attention", logs=False)
    with np.errstate(divide="ignore"):
        return np.log(stored), stored


def _runs(layers: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of chosen layers that lie next to each other, at most so many at a time."""
    borders = [0, *(i for i in range(1, len(layers)) if layers[i] != layers[i - 1] + 1), len(layers)]
    for start, stop in pairwise(borders):
        for first in range(start, stop, most):
            yield list(range(first, min(first + most, stop)))


def _rows(heads: int, slots: int) -> int:
    """Rows to decode at a time: a whole block of the cube, or a part of it where one layer is too large."""
    size = BLOCK
    while size > 1 and heads * size * slots * 4 > LAYER_BYTES:
        size //= 2
    return size


def _sums(a: Weights, b: Weights) -> Floats:
    one, other = a.ravel(), b.ravel()
    return np.array(
        [one.sum(dtype=np.float64), other.sum(dtype=np.float64), one @ one, other @ other, one @ other]
    )
