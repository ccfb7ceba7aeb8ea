"""Is a cube what it says: metadata, every shard, every checksum, every digest, and what is missing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .cube import Cube, Index
from .digest import Digest
from .encoding import row_axis
from .schema import BLOCK, CHECKS, DONE, FAIL, FAILED, INDEX, PENDING, QUARANTINED, STATUS, Variable


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with the cell it is about."""

    cell: str
    what: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.what}" if self.cell else self.what


@dataclass(frozen=True)
class Verdict:
    """What a look at a whole cube found."""

    counts: dict[str, int]
    problems: list[Problem] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """All cells that were asked for are there, and everything in them is as it was written."""
        return not self.problems and not self.missing


def verify(where: Any, progress: Callable[[int, int], None] = lambda done, total: None) -> Verdict:
    """Check a cube from its metadata to the last stored value."""
    cube = where if isinstance(where, Cube) else Cube.open(where)
    problems = list(_metadata(cube))
    status = cube.status()
    counts = {name: int((status == code).sum()) for code, name in enumerate(STATUS)}
    done = cube.cells(DONE)
    small = _small_arrays(cube, problems)
    with ThreadPoolExecutor() as pool:  # decoding and hashing let go of the interpreter
        found = pool.map(lambda index: verify_cell(cube, index, small), done if small else [])
        for n, (index, wrong) in enumerate(zip(done, found, strict=False)):
            problems += [Problem(cube.name(index), what) for what in wrong]
            progress(n + 1, len(done))
    problems += [
        Problem(
            cube.name(index), f"{STATUS[int(status[index])]}: {small['error'][index] or 'no reason given'}"
        )
        for index in (cube.cells(FAILED, QUARANTINED) if small else [])
    ]
    return Verdict(counts, problems, [cube.name(index) for index in cube.cells(PENDING)])


def verify_cell(cube: Cube, index: Index, small: dict[str, npt.NDArray[Any]] | None = None) -> list[str]:
    """What is wrong with one done cell: shards missing or damaged, other values than were written."""
    try:
        values = _values(cube, index, small)
        found = _digest(cube, index, values)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes a codec raise, the cell is named
        return [f"a shard is damaged: {_one_line(error)}"]
    wrong = [
        f"treatment check {name} failed"
        for name, result in zip(CHECKS, values["check_result"], strict=True)
        if result == FAIL and cube.grids[0].control != "no_mask"
    ]
    if found != values["digest"]:
        lost = _missing_shards(cube, index, int(values["length"]), len(values["width"]))
        wrong += lost or ["the stored values are not those that were written (digest differs)"]
    return wrong


def _values(cube: Cube, index: Index, small: dict[str, npt.NDArray[Any]] | None) -> dict[str, Any]:
    """The cell's row of every small array, cut to its length and its number of sets."""
    row: dict[str, Any] = {
        v.name: (small[v.name] if small else cube.array(v.name))[index]
        for v in INDEX
        if v.name not in _NOT_HASHED
    }
    sizes = {"slot": int(row["length"]), "step": int(np.count_nonzero(row["width"]))}
    cut = {v.name: tuple(slice(sizes.get(dim)) for dim in v.dims) for v in INDEX}
    return {name: value[cut[name]] if cut[name] else _scalar(value) for name, value in row.items()}


_NOT_HASHED = ("status", "error", "attempts", "seconds", "worker", "path_digest")


def _scalar(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _digest(cube: Cube, index: Index, values: dict[str, Any]) -> str:
    digest = Digest()
    for variable in cube.data.values():
        for block in blocks(cube, variable, index, int(values["length"]), len(values["width"])):
            digest.block(variable, block)
    return digest.finish(values, tuple(cube.data))


def blocks(
    cube: Cube, variable: Variable, index: Index, length: int, sets: int
) -> Iterator[npt.NDArray[Any]]:
    """The stored blocks of rows of one cell, captured layers and heads only, as they were written."""
    axis, captured, array = row_axis(variable), cube.captured(variable), cube.array(variable.name)
    rows = sets if variable.dims[axis] == "step" else length
    ends = {"key": length, "slot": length, "query": length}
    for start in range(0, rows, BLOCK):
        part = [slice(ends.get(dim)) for dim in variable.dims]
        part[axis] = slice(start, min(start + BLOCK, rows))
        block = np.asarray(array[(*index, *part)])
        for dim, chosen in captured.items():
            block = block.take(chosen, axis=variable.dims.index(dim))
        yield block


def _metadata(cube: Cube) -> Iterator[Problem]:
    """Variables that the schema has and the cube lacks, and the other way round."""
    wanted = {variable.name: variable for variable in (*INDEX, *cube.data.values())}
    cells = tuple(cube.labels.dims())
    for name, variable in wanted.items():
        meta = cube.metas.get(name)
        if meta is None:
            yield Problem("", f"variable {name} is missing")
        elif (got := tuple(meta["dimension_names"])) != (*cells, *variable.dims):
            yield Problem("", f"variable {name} has dims {got}, the schema says {(*cells, *variable.dims)}")
        elif meta["data_type"] != variable.dtype:
            yield Problem("", f"variable {name} is {meta['data_type']}, the schema says {variable.dtype}")


def _small_arrays(cube: Cube, problems: list[Problem]) -> dict[str, npt.NDArray[Any]]:
    """All small arrays; empty, and a problem more, where one cannot be read."""
    small = {}
    for variable in INDEX:
        try:
            small[variable.name] = cube.read(variable.name)
        except Exception as error:  # noqa: BLE001 - see verify_cell
            problems.append(Problem("", f"variable {variable.name} cannot be read: {_one_line(error)}"))
    return small if len(small) == len(INDEX) else {}


def _missing_shards(cube: Cube, index: Index, length: int, sets: int) -> list[str]:
    """Blocks of rows without a shard: the likely reason where the digest differs or nothing can be read."""
    lost = []
    for name, variable in cube.data.items():
        axis = row_axis(variable)
        folder = f"{name}/c/{'/'.join(map(str, index))}"
        there = {int(s.key.split("/")[2 + len(index) + axis]) for s in cube.place.list(folder)}
        rows = sets if variable.dims[axis] == "step" else length
        lost += [
            f"{name}: the shard of rows {b * BLOCK}.. is missing ({folder})"
            for b in range(-(-rows // BLOCK))
            if b not in there
        ]
    return lost


def _one_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
