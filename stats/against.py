"""One cell of a cube held against the same cell of another: every variable that both have."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.compare import apart, is_attention, numbers_apart
from ..dataset.cube import Cube, Index
from ..dataset.encoding import chunk_shape, row_axis
from ..dataset.schema import BLOCK, DIMENSIONS, INDEX, Variable
from ..dataset.visibility import asked_rows
from .subjects import Experiment, first_difference

__all__ = ["Outcome", "Seen", "Shared", "against", "shared"]

Array = npt.NDArray[Any]
Row = dict[str, Any]
Cubes = tuple[Cube, Cube]

PATH = ("token", "logical", "slot_step", "pruned_at")  # arrays that say what was fed, and who was hidden
SMALL = tuple(
    variable for variable in INDEX if variable.content and variable.name not in (*PATH, "length", "width")
)
READ_BYTES = 16 << 20  # of one variable of one cell, at a time


@dataclass(frozen=True, slots=True)
class Common:
    """The labels along a dim that both cubes captured, with their places in the one and in the other."""

    labels: list[Any]
    places: tuple[list[int], list[int]]

    def part(self, of: slice) -> "Common":
        """Some of them."""
        return Common(self.labels[of], (self.places[0][of], self.places[1][of]))


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A big array of both cubes, and what both captured along its labelled dims.

    why_not: why it cannot be compared.
    """

    name: str
    first: Variable
    second: Variable
    where: Mapping[str, Common] = field(default_factory=dict)
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A variable of one cell: its largest difference and the place, or how many entries are others."""

    same: bool
    largest: float | None = None
    differing: int | None = None
    at: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a cell came to; `seen` is empty where its sets are others in each cube.

    parted: what is other about its path, and from which set on, if that is it.
    """

    same_bits: bool
    parted: str = ""
    first_set: int | None = None
    seen: Mapping[str, Seen] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether it is the same content (DESIGN section 4)."""
        return not self.parted and all(seen.same for seen in self.seen.values())


def shared(cubes: Cubes) -> list[Shared]:
    """The big arrays that both have; attention is one variable in either form."""
    one, two = ({_kind(variable): variable for variable in cube.data.values()} for cube in cubes)
    return [_shared(name, one[name], two[name], cubes) for name in one if name in two]


def _kind(variable: Variable) -> str:
    return "attention" if is_attention(variable) else variable.name


def _shared(name: str, first: Variable, second: Variable, cubes: Cubes) -> Shared:
    where: dict[str, Common] = {}
    for dim in first.dims:
        there = [_numbers(cube, variable, dim) for cube, variable in zip(cubes, (first, second), strict=True)]
        if there[0] is None or there[1] is None:
            sizes = [cube.sizes.get(dim) for cube in cubes]
            if dim not in ("slot", "query", "key", "step") and sizes[0] != sizes[1]:
                return Shared(name, first, second, why_not=f"{dim}: {sizes[0]} and {sizes[1]}")
            continue
        both = [each for each in there[0] if each in there[1]]
        if not both:
            return Shared(name, first, second, why_not=f"no {dim} was captured in both")
        where[dim] = Common(both, ([there[0][each] for each in both], [there[1][each] for each in both]))
    return Shared(name, first, second, where)


def _numbers(cube: Cube, variable: Variable, dim: str) -> dict[Any, int] | None:
    """The captured labels of a dim, with their places; None where it has no labels."""
    if dim not in DIMENSIONS:
        return None
    labels, part = cube.read(dim).tolist(), cube.captured(variable).get(dim)
    return {each: i for i, each in enumerate(labels) if part is None or i in part}


def against(
    cubes: Cubes, indices: tuple[Index, Index], rows: tuple[Row, Row], big: Sequence[Shared]
) -> Outcome:
    """Hold one cell against the other; `rows` are their small arrays, cut to their lengths."""
    one, two = rows
    same_bits = one["digest"] == two["digest"]
    others = [name for name in PATH if not np.array_equal(one[name], two[name])]
    if others:
        return Outcome(same_bits, *_parted(cubes, indices, rows, others))
    seen = {variable.name: _small(variable, one, two) for variable in SMALL}
    for variable in big:
        if not variable.why_not:
            seen[variable.name] = _big(variable, cubes, indices, one)
    other = "" if one["path_digest"] == two["path_digest"] else "the model, a control or what was applied"
    return Outcome(same_bits, other, None, seen)


def _parted(
    cubes: Cubes, indices: tuple[Index, Index], rows: tuple[Row, Row], others: list[str]
) -> tuple[str, int | None]:
    prompts = [row["token"][row["slot_step"] < 0] for row in rows]
    if not np.array_equal(*prompts):
        return "the tokens of the prompt", None
    one, two = (
        Experiment(index, cube.labels.mode[index[2]], row, "all", None, "")
        for cube, index, row in zip(cubes, indices, rows, strict=True)
    )
    step = first_difference(one, two, ordered=True)
    return ("its sets", step) if step >= 0 else (", ".join(others), None)


def _small(variable: Variable, one: Row, two: Row) -> Seen:
    a, b = np.asarray(one[variable.name]), np.asarray(two[variable.name])
    if a.shape != b.shape:
        return Seen(same=True, differing=max(a.size, b.size))
    if a.dtype.kind != "f":
        return Seen(same=True, differing=int(np.count_nonzero(a != b)))
    found = numbers_apart(a, b)
    return Seen(found.same, found.largest, at=_place(variable, found.at, {}))


def _big(of: Shared, cubes: Cubes, indices: tuple[Index, Index], row: Row) -> Seen:
    """The largest difference over all blocks of one array."""
    same, worst, at = True, 0.0, ""
    for one, two, labels in _blocks(of, cubes, indices, row):
        found = apart(one, two, of.first, of.second)
        same &= found.same
        if found.largest > worst:
            worst, at = found.largest, _place(of.first, found.at, labels)
    return Seen(same, worst, at=at)


def _place(variable: Variable, at: tuple[int, ...], labels: Mapping[str, Sequence[Any]]) -> str:
    """layer 3, head 2, query 14, key 7."""
    named = zip(variable.dims, at, strict=False)
    return ", ".join(f"{dim} {labels[dim][i] if dim in labels else i}" for dim, i in named)


def _blocks(
    of: Shared, cubes: Cubes, indices: tuple[Index, Index], row: Row
) -> Iterator[tuple[Array, Array, dict[str, Sequence[Any]]]]:
    """Blocks of the rows that both captured, a few layers at a time, with the labels along their dims."""
    axis, asked = row_axis(of.first), _rows(of, cubes, row)
    for start in range(0, len(asked), BLOCK):
        rows = slice(start, min(start + BLOCK, len(asked)))
        kept = np.flatnonzero(asked[rows])
        for part in _parts(of, cubes[0], BLOCK, len(asked)) if kept.size else ():
            one, two = (
                _read(cubes[i], variable, indices[i], _places(part, i), rows, len(asked))
                for i, variable in enumerate((of.first, of.second))
            )
            labels: dict[str, Sequence[Any]] = {dim: common.labels for dim, common in part.items()}
            labels[of.first.dims[axis]] = (kept + start).tolist()
            yield one.take(kept, axis), two.take(kept, axis), labels


def _places(part: Mapping[str, Common], i: int) -> dict[str, list[int]]:
    return {dim: common.places[i] for dim, common in part.items()}


def _rows(of: Shared, cubes: Cubes, row: Row) -> npt.NDArray[np.bool_]:
    """Which rows both cubes were asked for."""
    if of.first.dims[row_axis(of.first)] == "step":
        return np.ones(len(row["width"]), dtype=bool)
    rows = np.ones(len(row["token"]), dtype=bool)
    for cube in cubes if is_attention(of.first) else ():
        rows &= asked_rows(cube.attrs["captured_queries"] or "all", row["slot_step"])
    return rows


def _parts(of: Shared, cube: Cube, rows: int, length: int) -> Iterator[dict[str, Common]]:
    """The labels of both, as many layers at a time as may be read at once; whole chunks of them."""
    first, axis = of.first.dims[0], row_axis(of.first)
    if not axis:
        yield dict(of.where)
        return
    others = [dim for i, dim in enumerate(of.first.dims) if i not in (0, axis)]
    values = math.prod(length if dim == "key" else cube.sizes[dim] for dim in others) * rows
    inner = chunk_shape(of.first, cube.sizes)[0]
    size = max(1, READ_BYTES // (4 * values * inner)) * inner
    for start in range(0, len(of.where[first].labels), size):
        yield dict(of.where) | {first: of.where[first].part(slice(start, start + size))}


def _read(
    cube: Cube, variable: Variable, index: Index, places: Mapping[str, list[int]], rows: slice, length: int
) -> Array:
    """Stored values of some rows, at the places along other dims; keys as far as the experiment goes."""
    spans = {dim: slice(min(at), max(at) + 1) for dim, at in places.items()}
    spans |= {"key": slice(length), variable.dims[row_axis(variable)]: rows}
    where: Any = (*index, *(spans.get(dim, slice(None)) for dim in variable.dims))
    block = cube.read(variable.name, where)
    for axis, dim in enumerate(variable.dims):
        if dim in places and len(places[dim]) < block.shape[axis]:
            block = block.take(np.asarray(places[dim]) - spans[dim].start, axis)
    return block
