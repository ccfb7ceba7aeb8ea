"""Driving a cube: take the lease, create, extend or replace it, and keep its index while workers write."""

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import StorePath

from ..errors import TempoError
from . import lease as leases
from . import replacing
from .cube import Cube, Index
from .digest import vocabulary_hash
from .fit import must_agree, must_fit, traits
from .grid import Cell, Grid
from .lease import Lease, Permit
from .ledger import Folded, Ledger
from .place import Place
from .runlog import versions
from .schema import (
    DONE,
    FAILED,
    MARK,
    NOT_ASKED,
    PENDING,
    QUARANTINED,
    ROOT,
    SCHEMA_VERSION,
    VOCABULARY,
    ModelFacts,
    sizes,
)
from .template import Labels, arrays, axis_values, coordinates, document, resized, root
from .writing import CellWriter, Receipt, receipts

MOST_TRIES = 3


@dataclass(frozen=True)
class Task:
    """One cell to compute: plain values, so that it travels to any worker."""

    url: str
    lease: str
    index: Index
    cell: Cell
    attempt: int

    def writer(self) -> CellWriter:
        """What the worker writes the cell with."""
        permit = _permit(Place.at(self.url), self.lease)
        return CellWriter(self._cube, self.index, self.cell, permit, self.attempt)

    def done(self) -> bool:
        """Whether the cell was finished meanwhile: a scheduler that lost a worker hands tasks out twice."""
        if self._cube.array("status")[self.index] == DONE:
            return True
        for stored in receipts(self._cube.place, self.index):
            with suppress(ValueError):
                if Receipt.from_bytes(self._cube.place.get(stored.key) or b"").values["status"] == DONE:
                    return True
        return False

    @property
    def _cube(self) -> Cube:
        place = Place.at(self.url)
        return _opened(place, place.get(ROOT) or b"")


class Driver:
    """The one process that may change a cube's index; a context manager.

    Entering it takes the lease, commits the grid to the cube (a new one, or the one that is there), and folds
    what a run before left. Leaving it folds once more and gives the lease back. `vocabulary` gives the text
    of every token; it is called where a cube is made.
    """

    def __init__(
        self,
        where: Any,
        grid: Grid,
        facts: ModelFacts,
        prompt_tokens: int,
        *,
        vocabulary: Callable[[], Sequence[str]] = list,
        overwrite: bool = False,
        beat: float = leases.BEAT,
        stale: float = leases.STALE,
    ) -> None:
        self.place, self.grid = Place.at(where), grid
        self._facts, self._prompt_tokens, self._vocabulary = facts, prompt_tokens, vocabulary
        self._overwrite, self._beat, self._stale = overwrite, beat, stale

    def __enter__(self) -> "Driver":
        must_fit(self.grid, self._facts, self._prompt_tokens)
        replacing.finish_swap(self.place)
        found = None if self._overwrite else Cube.find(self.place)
        replacing.refuse_strangers(self.place)
        _labels(found, self.grid, self._facts)  # refuses what does not fit before anything is made
        self.lease = leases.take(self.place, beat=self._beat, stale=self._stale)
        try:
            replacing.clear(self.place)
            if self._overwrite and replacing.occupied(self.place):
                replacing.replace(self.place, self.lease, self._commit)
            else:
                self._commit(self.place, self.lease, Cube.find(self.place))
            self.cube = Cube.open(self.place)
            self.ledger = Ledger(self.cube, self.lease)
            self.ledger.fold()
            if self.lease.dead and self.lease.dead["after_dead"]:
                # the run that died had itself taken over and did not get to its own look at late shards
                self.ledger.recheck(self.lease.dead["since"])
        except BaseException:
            self.lease.release(clean=not self.lease.taken_over)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        looked = not self.lease.taken_over
        try:
            if kind is None or not issubclass(kind, TempoError):
                self.ledger.fold()
                self.ledger.recheck()
                looked = True
        finally:
            self.lease.release(clean=looked)

    def todo(self, *, quarantined: bool = False) -> list[Task]:
        """The grid's cells that are pending, or failed and not yet given up, in cube order."""
        status, attempts = self.ledger.status(), self.cube.read("attempts")
        wanted = {PENDING, FAILED, QUARANTINED} if quarantined else {PENDING, FAILED}
        return [
            Task(self.place.url, self.lease.token, index, cell, int(attempts[index]) + 1)
            for index, cell in self.cube.asked(self.grid)
            if status[index] in wanted and (status[index] != FAILED or attempts[index] < MOST_TRIES)
        ]

    def fold(self) -> list[Folded]:
        """Take in what workers have finished since the last call."""
        return self.ledger.fold()

    def _commit(self, place: Place, lease: Lease, cube: Cube | None = None) -> None:
        """Make the cube one that has this grid; the last put is what makes it so."""
        labels = _labels(cube, self.grid, self._facts)
        lengths = sizes(self.grid, self._facts, self._prompt_tokens)
        words = self._vocabulary() if cube is None else ()
        if cube is None:
            grids: tuple[Grid, ...] = (self.grid,)
            metas = arrays(self.grid, self._facts, labels, lengths, len(words))
            attrs = _attributes(self.grid, self._facts) | _hashed(words)
        else:
            grids = cube.grids if self.grid in cube.grids else (*cube.grids, self.grid)
            cells = {dim: len(values) for dim, values in labels.dims().items()}
            grown = {dim: max(size, cube.sizes.get(dim, 0)) for dim, size in lengths.items()}
            metas = resized(cube.metas, grown | cells)
            attrs = cube.attrs | {"grid": [grid.to_dict() for grid in grids]}
        attrs["axes"] = axis_values(grids, labels)
        changed = cube is None or (metas, attrs) != (cube.metas, cube.attrs)
        for name, meta in metas.items():
            # an extension that died half way leaves arrays ahead of the root: the same loop puts them back
            if changed or place.get(f"{name}/{ROOT}") != document(meta):
                place.put(f"{name}/{ROOT}", document(meta))
        values = coordinates(self.grid, labels, self._facts) if changed else {}
        if words:
            values[VOCABULARY] = np.asarray(words, dtype=object)
        for name, value in (values | {"status": _status(cube, grids, labels)}).items():
            zarr.Array.from_dict(StorePath(place.zarr(read_only=False), name), metas[name])[...] = value
        if changed:
            lease.check()
            place.put(ROOT, root(metas, attrs))


@lru_cache(maxsize=4)
def _opened(place: Place, data: bytes) -> Cube:
    """The cube behind a root document: workers parse it once, and anew after an extension."""
    return Cube.parse(place, data)


@lru_cache(maxsize=4)
def _permit(place: Place, token: str) -> Permit:
    """One permit a run, so that what it saw of the heartbeat is remembered from cell to cell."""
    return Permit(place, token)


def _status(cube: Cube | None, grids: tuple[Grid, ...], labels: Labels) -> npt.NDArray[np.uint8]:
    """Status of every cell once the grids are asked: what was there stays, what is new is pending.

    Made from the grids, never from what an extension that died may have written.
    """
    dims = labels.dims()
    status = np.full([len(values) for values in dims.values()], NOT_ASKED, dtype=np.uint8)
    if cube is not None:
        status[tuple(slice(n) for n in cube.shape)] = cube.status()
    asked = np.zeros(status.shape, dtype=bool)
    for grid in grids:
        own = {"prompt": grid.prompt_texts, "seed": grid.seeds, "mode": grid.modes}
        own |= {name: labels.spelled(name, grid.axis_labels(name)) for name in grid.axes}
        every = dims | {"prompt": labels.prompt_text}
        asked |= _product([np.isin(np.asarray(every[dim]), np.asarray(own[dim])) for dim in dims])
    status[asked & (status == NOT_ASKED)] = PENDING
    status[~asked & (status == PENDING)] = NOT_ASKED
    return status


def _product(members: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    out = np.ones((), dtype=bool)
    for member in members:
        out = out[..., None] & member
    return out


def _labels(cube: Cube | None, grid: Grid, facts: ModelFacts) -> Labels:
    """The coordinates with this grid, in a cube that can take it."""
    if cube is None:
        return Labels().extended(grid)
    must_agree(cube, grid, facts)
    return cube.labels.extended(grid)


def _attributes(grid: Grid, facts: ModelFacts) -> dict[str, Any]:
    attention = grid.capture.attention
    return {
        MARK: SCHEMA_VERSION,
        "title": f"tempocube {grid.name}",
        "coordinates": "prompt_text category",
        "grid": [grid.to_dict()],
        "model": facts.to_dict(),
        "traits": traits(grid),
        "control": grid.control,
        "captured_layers": _part(attention.layers, facts.layers) if attention else [],
        "captured_heads": _part(attention.heads, facts.heads) if attention else [],
        "captured_queries": attention.queries if attention else None,
        "versions": versions("tempocube", "numpy", "zarr", "xarray", "mlx", "mlx-lm"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _hashed(words: Sequence[str]) -> dict[str, str]:
    return {"vocabulary_sha256": vocabulary_hash(words)} if words else {}


def _part(part: Any, size: int) -> list[int]:
    return list(range(size)) if part == "all" else list(part)
