"""Two cubes held against each other: the same content, the same sets, and how far every variable is apart.

>>> found = diff("one.zarr", "other.zarr")
>>> found.equal, found.same, found.variables
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from ..dataset.cube import Cube, Index
from ..dataset.options import label
from ..dataset.schema import DONE, INDEX, STATUS
from ..errors import BadInput
from .against import SMALL, Outcome, Row, Seen, Shared, against, shared

__all__ = ["Alone", "Diff", "Largest", "Parted", "diff"]

Progress = Callable[[int, int], None]
Pair = tuple[Index, Index]

THREADS = 4


@dataclass(frozen=True, slots=True)
class Alone:
    """A cell that is done in one cube only, and what the other says of it."""

    cell: str
    there: str


@dataclass(frozen=True, slots=True)
class Parted:
    """A cell that is another experiment in each cube: what is other, and the first set if it is that."""

    cell: str
    what: str
    first_set: int | None


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest difference of a variable over the cells on the same path, and where it is.

    Of numbers that are no measurements, such as token ids, how many differ is counted instead. beyond: cells
    in which it differs by more than packing makes. not_compared: why there is no number.
    """

    name: str
    unit: str = ""
    cells: int = 0
    largest: float | None = None
    differing: int | None = None
    beyond: int = 0
    cell: str = ""
    at: str = ""
    not_compared: str = ""


@dataclass(frozen=True, slots=True)
class Diff:
    """What two cubes have in common and how far it is apart.

    common: cells done in both. same: those of the same content. same_bits: those equal to the last bit.
    values: in how many cells on the same path a variable makes another content, if it does in any.
    """

    one: str
    other: str
    common: int
    same: int
    same_path: int
    same_bits: int
    values: Mapping[str, int]
    only_one: tuple[Alone, ...]
    only_other: tuple[Alone, ...]
    parted: tuple[Parted, ...]
    variables: tuple[Largest, ...]
    variables_only_one: tuple[str, ...]
    variables_only_other: tuple[str, ...]
    options: Mapping[str, tuple[Any, Any]]

    @property
    def other_values(self) -> int:
        """How many cells are on the same path, but not of the same content."""
        return self.same_path - self.same

    @property
    def equal(self) -> bool:
        """Whether both have the same cells, all of the same content."""
        return self.common == self.same and not (self.only_one or self.only_other)


def diff(one: Any, other: Any, progress: Progress = lambda done, total: None) -> Diff:
    """Compare two cubes, at paths or URLs; cells are matched by prompt text, seed, mode and swept values."""
    cubes = _opened(one), _opened(other)
    pairs, alone = _matched(cubes)
    if not (pairs or any(alone)):
        raise BadInput(f"{cubes[0].place} and {cubes[1].place}: no experiment is done in either")
    big = shared(cubes)
    tally = _Tally(_variables(big))
    for n, (cell, outcome) in enumerate(_outcomes(cubes, pairs, big)):
        tally.add(cell, outcome)
        progress(n + 1, len(pairs))
    return Diff(
        cubes[0].place.url,
        cubes[1].place.url,
        common=len(pairs),
        same=tally.same,
        same_path=tally.same_path,
        same_bits=tally.same_bits,
        values={name: tally.values[name] for name in tally.largest if tally.values[name]},
        only_one=alone[0],
        only_other=alone[1],
        parted=tuple(tally.parted),
        variables=tuple(tally.largest.values()),
        variables_only_one=_only(cubes[0], big),
        variables_only_other=_only(cubes[1], big),
        options=_options(cubes),
    )


def _opened(cube: Any) -> Cube:
    return cube if isinstance(cube, Cube) else Cube.open(cube)


def _matched(cubes: tuple[Cube, Cube]) -> tuple[list[Pair], tuple[tuple[Alone, ...], tuple[Alone, ...]]]:
    """Cells done in both, in the order of the one; and those done in one only."""
    axes = tuple(dict.fromkeys(axis for cube in cubes for axis in cube.grids[0].axes))
    places = [{_key(cube, index, axes): index for index in cube.cells(DONE)} for cube in cubes]
    asked = [{_key(cube, index, axes): index for index in cube.cells()} for cube in cubes]

    def alone(here: int, there: int) -> tuple[Alone, ...]:
        status = cubes[there].status()
        return tuple(
            Alone(
                cubes[here].name(index),
                STATUS[status[asked[there][key]]] if key in asked[there] else "not asked",
            )
            for key, index in places[here].items()
            if key not in places[there]
        )

    both = [(index, places[1][key]) for key, index in places[0].items() if key in places[1]]
    return both, (alone(0, 1), alone(1, 0))


def _key(cube: Cube, index: Index, axes: Sequence[str]) -> tuple[Any, ...]:
    """What a cell is called in any cube: ids of prompts and the order of values are a cube's own."""
    cell = cube.cell(index)
    return cell.prompt, cell.seed, cell.mode, *(str(label(getattr(cell, axis))) for axis in axes)


def _outcomes(
    cubes: tuple[Cube, Cube], pairs: Sequence[Pair], big: Sequence[Shared]
) -> Iterator[tuple[str, Outcome]]:
    """Every cell's outcome; no more of the small arrays than those of one prompt are in memory."""

    def compared(pair: Pair) -> Outcome:
        rows = tuple(cube.row((0, *at[1:]), of) for cube, at, of in zip(cubes, pair, small, strict=True))
        return against(cubes, pair, (rows[0], rows[1]), big)

    with ThreadPoolExecutor(THREADS, "diff") as pool:  # decoding lets go of the interpreter
        for _, group in groupby(pairs, lambda pair: pair[0][0]):
            cells = list(group)
            small = [_of_prompt(cube, cells[0][i][0]) for i, cube in enumerate(cubes)]
            for pair, outcome in zip(cells, pool.map(compared, cells), strict=True):
                yield cubes[0].name(pair[0]), outcome


def _of_prompt(cube: Cube, prompt: int) -> Row:
    """Small arrays of all cells of one prompt."""
    return {variable.name: cube.read(variable.name, (prompt,))[None] for variable in INDEX}


def _variables(big: Sequence[Shared]) -> dict[str, Largest]:
    """A row for each variable that both have, before anything is compared."""
    units = {variable.name: variable.unit for variable in SMALL}
    units |= {of.name: "" if of.name == "attention" else of.first.unit for of in big}
    why_not = {of.name: of.why_not for of in big}
    first = [of.name for of in big]
    order = [*first, *(name for name in units if name not in first)]
    return {name: Largest(name, units[name], not_compared=why_not.get(name, "")) for name in order}


@dataclass(slots=True)
class _Tally:
    """What the cells so far came to."""

    largest: dict[str, Largest]
    same: int = 0
    same_path: int = 0
    same_bits: int = 0
    values: Counter[str] = field(default_factory=Counter)
    parted: list[Parted] = field(default_factory=list)

    def add(self, cell: str, outcome: Outcome) -> None:
        """One more."""
        self.same += outcome.same
        self.same_path += not outcome.parted
        self.same_bits += outcome.same_bits
        if outcome.parted:
            self.parted.append(Parted(cell, outcome.parted, outcome.first_set))
        else:
            self.values.update(name for name, seen in outcome.seen.items() if not seen.same)
        for name, seen in outcome.seen.items():
            self.largest[name] = _larger(self.largest[name], cell, seen)


def _larger(so_far: Largest, cell: str, seen: Seen) -> Largest:
    made = replace(so_far, cells=so_far.cells + 1, beyond=so_far.beyond + (not seen.same))
    if seen.largest is None:
        first = cell if seen.differing and not so_far.differing else so_far.cell
        return replace(made, differing=(so_far.differing or 0) + (seen.differing or 0), cell=first)
    if so_far.largest is not None and seen.largest <= so_far.largest:
        return made
    if not seen.largest:
        return replace(made, largest=0.0)
    return replace(made, largest=seen.largest, cell=cell, at=seen.at)


def _only(cube: Cube, big: Sequence[Shared]) -> tuple[str, ...]:
    both = {variable.name for of in big for variable in (of.first, of.second)}
    return tuple(name for name in cube.data if name not in both)


def _options(cubes: tuple[Cube, Cube]) -> dict[str, tuple[Any, Any]]:
    """Options of the grids and facts of the models that are others in each."""
    told = []
    for cube in cubes:
        model = {f"model {name}": value for name, value in cube.facts.to_dict().items()}
        told.append(cube.grids[0].invariants() | model)
    one, other = told
    return {
        name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)
    }
