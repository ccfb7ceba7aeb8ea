"""Is a cube what it says: metadata, coordinates, every shard, checksum, digest and sum; what is missing."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import TempoError
from .cube import Cube, Index, one_line
from .digest import Digest, path_digest, vocabulary_hash
from .encoding import decode, row_axis
from .schema import (
    BLOCK,
    DONE,
    FAILED,
    INDEX,
    NOT_ASKED,
    PENDING,
    QUARANTINED,
    ROOT,
    STATUS,
    VOCABULARY,
    Variable,
)
from .shards import shard_key
from .template import coordinates, document
from .visibility import asked_rows, existence, visibility
from .writing import failed_checks

SUM = {"log_attention": 5e-3, "attention": 1e-3}  # how far a row of weights may be from 1

Array = npt.NDArray[Any]


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
    status = cube.status()
    counts = {name: int((status == code).sum()) for code, name in enumerate(STATUS)}
    problems = [*_metadata(cube), *_coordinates(cube, status)]
    small = _small_arrays(cube, problems)
    done = cube.cells(DONE)
    with ThreadPoolExecutor() as pool:  # decoding and hashing let go of the interpreter
        for n, wrong in enumerate(pool.map(lambda index: verify_cell(cube, index, small), done)):
            problems += [Problem(cube.name(done[n]), what) for what in wrong]
            progress(n + 1, len(done))
    problems += [
        Problem(
            cube.name(index), f"{STATUS[int(status[index])]}: {small['error'][index] or 'no reason given'}"
        )
        for index in (cube.cells(FAILED, QUARANTINED) if "error" in small else [])
    ]
    return Verdict(counts, problems, [cube.name(index) for index in cube.cells(PENDING)])


def verify_cell(cube: Cube, index: Index, small: dict[str, Array] | None = None) -> list[str]:
    """What is wrong with one done cell: shards missing or damaged, other values than were written."""
    at = "index"
    try:
        values = cube.row(index, small)
        digest, wrong = Digest(), [failed_checks(values["check_result"], cube.grids[0].control)]
        for variable in cube.data.values():
            at = variable.name
            for start, block in blocks(cube, variable, index, int(values["length"]), len(values["width"])):
                digest.block(variable, block)
                wrong.append(_not_attention(cube, index, values, variable, start, block))
        found = digest.finish(values, tuple(cube.data))
        wrong.append(_another_path(cube, index, values))
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes a codec raise, the cell is named
        return [
            str(error) if isinstance(error, TempoError) else f"{at}: a shard is damaged ({one_line(error)})"
        ]
    if found != values["digest"]:
        lost = _missing_shards(cube, index, int(values["length"]), len(values["width"]))
        return lost or ["the stored values are not those that were written (digest differs)"]
    return [what for what in dict.fromkeys(wrong) if what]


def blocks(
    cube: Cube, variable: Variable, index: Index, length: int, sets: int
) -> Iterator[tuple[int, Array]]:
    """First row and stored values of each block of one cell, captured layers and heads only, as written."""
    axis, captured, array = row_axis(variable), cube.captured(variable), cube.array(variable.name)
    rows = sets if variable.dims[axis] == "step" else length
    ends = {"key": length, "slot": length, "query": length}
    for start in range(0, rows, BLOCK):
        part = [slice(ends.get(dim)) for dim in variable.dims]
        part[axis] = slice(start, min(start + BLOCK, rows))
        block = np.asarray(array[(*index, *part)])
        for dim, chosen in captured.items():
            block = block.take(chosen, axis=variable.dims.index(dim))
        yield start, block


def _not_attention(
    cube: Cube, index: Index, values: dict[str, Any], variable: Variable, start: int, block: Array
) -> str:
    """What a block of attention must not have: gaps, weight on hidden pairs, rows without sum 1."""
    if variable.name not in SUM:
        return ""
    grid = cube.grids[0]
    weights = decode(block, variable.codec, logs=False) if variable.codec else block
    rows = slice(start, start + block.shape[2])
    attention = grid.capture.attention
    asked = asked_rows(attention.queries if attention else "all", values["slot_step"])
    there = (existence(values["slot_step"]) & asked[:, None])[rows]
    # result files of other programs need not have every row
    if "imported" not in cube.attrs and np.isnan(weights[:, :, there]).any():
        return f"{variable.name} has gaps where tokens were seen"
    if not np.isnan(weights[:, :, ~there]).all():
        return f"{variable.name} has weights on tokens that did not exist"
    mode = cube.labels.mode[index[2]]
    hidden = ~visibility(mode, values["logical"], values["slot_step"], values["pruned_at"])[rows] & there
    if grid.control != "no_mask" and weights[:, :, hidden].any():
        return f"{variable.name} has weight on hidden pairs"
    off = np.abs(np.nansum(weights, axis=-1)[:, :, asked[rows]] - 1)
    return f"rows of {variable.name} do not sum to 1" if (off > SUM[variable.name]).any() else ""


def _another_path(cube: Cube, index: Index, values: dict[str, Any]) -> str:
    """Whether `path_digest` is another than its tokens and masks make (a control may apply other masks)."""
    cell = cube.cell(index)
    if cell.control == "no_mask" or "path_digest" not in values:
        return ""
    found = path_digest(cell.prompt, cube.facts.sha256, cell.control, cell.ablate, cell.mode, values)
    return "" if found == values["path_digest"] else "path_digest is not that of its tokens and masks"


def _metadata(cube: Cube) -> Iterator[Problem]:
    """Variables that the schema has and the cube lacks, or has otherwise."""
    cells = tuple(cube.labels.dims())
    for variable in (*INDEX, *cube.data.values()):
        name, meta = variable.name, cube.metas.get(variable.name)
        if meta is None:
            yield Problem("", f"variable {name} is missing")
        elif (got := tuple(meta["dimension_names"])) != (*cells, *variable.dims):
            yield Problem("", f"variable {name} has dims {got}, the schema says {(*cells, *variable.dims)}")
        elif meta["data_type"] != variable.dtype:
            yield Problem("", f"variable {name} is {meta['data_type']}, the schema says {variable.dtype}")
    for name, meta in cube.metas.items():
        if _but_its_shape(cube.place.get(f"{name}/{ROOT}")) != _but_its_shape(document(meta)):
            yield Problem("", f"{name}/{ROOT} is not what the root says; the next run puts it right")


def _but_its_shape(data: bytes | None) -> Any:
    """Metadata of an array; after an extension that died its own shape may be ahead of the root's."""
    try:
        return json.loads(data or b"") | {"shape": None}
    except (ValueError, TypeError):
        return None


def _coordinates(cube: Cube, status: npt.NDArray[np.uint8]) -> Iterator[Problem]:
    """Coordinates and status that are not those of the grids that were asked."""
    if cube.asked_labels() != cube.labels:
        yield Problem("", "the coordinates are not those of the grids that were asked")
        return
    for name, values in coordinates(cube.grids[0], cube.labels, cube.facts).items():
        if cube.read(name).tolist() != values.tolist():
            yield Problem("", f"the coordinate {name} is not what it was")
    told = cube.attrs.get("vocabulary_sha256")
    if told and told != vocabulary_hash(cube.read(VOCABULARY).tolist()):
        yield Problem("", "the vocabulary is not what it was")
    forgotten = {index for grid in cube.grids for index, _ in cube.asked(grid) if status[index] == NOT_ASKED}
    for index in sorted(forgotten):
        yield Problem(cube.name(index), "was asked for, but its status says that it was not")


def _small_arrays(cube: Cube, problems: list[Problem]) -> dict[str, Array]:
    """The small arrays that can be read whole, and a problem for each other."""
    small = {}
    for variable in INDEX:
        try:
            small[variable.name] = cube.read(variable.name)
        except (TempoError, KeyError) as error:
            problems.append(
                Problem("", str(error) if isinstance(error, TempoError) else f"no {variable.name}")
            )
    return small


def _missing_shards(cube: Cube, index: Index, length: int, sets: int) -> list[str]:
    """Blocks of rows without a shard: the likely reason where the digest differs."""
    lost = []
    for variable in cube.data.values():
        rows = sets if variable.dims[row_axis(variable)] == "step" else length
        lost += missing_shards(cube, index, variable, range(rows))
    return lost


def missing_shards(cube: Cube, index: Index, variable: Variable, rows: Iterable[int]) -> list[str]:
    """Blocks of a cell's rows without a shard; reading them would give nothing but fill."""
    meta, axis = cube.metas[variable.name], row_axis(variable)
    blocks = sorted({row // BLOCK for row in rows})
    # a row has some of the first keys, so that the first shard of its block is never empty
    places = ((*index, *(block if i == axis else 0 for i in range(len(variable.dims)))) for block in blocks)
    keys = [f"{variable.name}/{shard_key(meta, at)}" for at in places]
    return [
        f"{variable.name}: the shard of rows {block * BLOCK}.. is missing ({key})"
        for block, key, size in zip(blocks, keys, cube.place.each(cube.place.size, keys), strict=True)
        if size is None
    ]
