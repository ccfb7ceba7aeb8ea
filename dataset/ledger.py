"""The driver's side of the index: receipts are folded into the small arrays, which nobody else writes."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ..errors import DamagedError
from .cube import Cube, Index, chunk_index, one_line
from .lease import Lease
from .schema import DONE, FAILED, INDEX, PENDING, QUARANTINED
from .verify import verify_cell
from .writing import Receipt, receipts, verify_shards

KEPT_CHUNKS = 24  # index chunks kept in memory between folds (each about 128 cells)

Chunk = tuple[int, ...]


@dataclass(frozen=True)
class Folded:
    """One receipt that came in: its cell, and what became of it."""

    index: Index
    status: int
    error: str
    worker: str = ""
    slots: int = 0
    stored: int = 0  # bytes of its shards


class Ledger:
    """Folds receipts; `status` is written last, so a cell is done only when everything about it is there."""

    def __init__(self, cube: Cube, lease: Lease) -> None:
        self.cube, self.lease = cube, lease
        store = cube.place.zarr(read_only=False)
        self._arrays = {variable.name: cube.array(variable.name, store) for variable in INDEX}
        self._status = cube.status()
        self._chunks: dict[Chunk, dict[str, npt.NDArray[Any]]] = {}
        self._folded_at: dict[Index, float] = {}
        self._there = {
            (name, chunk) for each in cube.place.each(self._written, self._arrays) for name, chunk in each
        }

    def fold(self) -> list[Folded]:
        """Take in every receipt there is; those of a run that died are verified in full first.

        A receipt that is not believed is told of as pending, with the reason: its cell is to be done again.
        """
        place = self.cube.place
        left = receipts(place)
        read = place.each(self._read, [stored.key for stored in left])
        tries = Counter(receipt.index for receipt in read if receipt)
        looked = place.each(lambda receipt: self._looked_at(receipt, tries), read)
        believed = {receipt.index: receipt for receipt in looked if isinstance(receipt, Receipt)}
        for stored, receipt in zip(left, looked, strict=True):
            if isinstance(receipt, Receipt):
                self._folded_at[receipt.index] = stored.modified
        self._write({index: receipt.values for index, receipt in believed.items()})
        place.delete(stored.key for stored in left)
        refused = [told for told in looked if isinstance(told, Folded) and told.index not in believed]
        return [*map(_told, believed.values()), *refused]

    def mark(
        self, cells: Iterable[Index], status: int, error: str = "", *, attempts: int | None = None
    ) -> None:
        """Set what the driver itself knows of cells: failed without a receipt, quarantined, pending again.

        A failure and a quarantine count as a try unless `attempts` says how many there were.
        """
        tries = self.cube.read("attempts")
        more = int(status in (FAILED, QUARANTINED))
        self.set(
            {
                index: {
                    "status": status,
                    "error": error,
                    "attempts": int(tries[index]) + more if attempts is None else attempts,
                }
                for index in cells
            }
        )

    def set(self, cells: Mapping[Index, Mapping[str, Any]]) -> None:
        """Set values of small variables of cells, such as the `check_value`s of a cross-check."""
        self._write(cells)

    def status(self) -> npt.NDArray[np.uint8]:
        """Status of every cell, as last written."""
        return self._status.copy()

    def status_of(self, index: Index) -> int:
        """Status of one cell, as last written."""
        return int(self._status[index])

    def recheck(self, since: float | None = None) -> list[Index]:
        """Cells whose shards are newer than their receipt (or than a time) and do not verify: pending again.

        A worker can have passed its last look at the lease, or can have a cell that another one finished, and
        put a shard after that. What it put is found by its time, and judged by the digest.
        """
        if since is None and not self._folded_at:
            return []  # nothing came in that something could be later than
        late = [index for index in self._newer_shards(since) if self._status[index] == DONE]
        broken = [index for index in late if verify_cell(self.cube, index)]
        self.mark(broken, PENDING, "a shard was overwritten by a worker that came late")
        return broken

    def _newer_shards(self, since: float | None) -> list[Index]:
        """Cells with a shard put after their receipt was, or after a time."""
        late = set()
        for name in self.cube.data:
            for stored in self.cube.place.list(name):
                index = chunk_index(stored.key)[: len(self.cube.shape)]
                known = self._folded_at.get(index, math.inf) if since is None else since
                if index and stored.modified > known:
                    late.add(index)
        return sorted(late)

    def _read(self, key: str) -> Receipt | None:
        """A receipt that is one, of this cube; a store that fails is an error."""
        try:
            receipt = Receipt.from_bytes(self.cube.place.get(key) or b"")
            self._must_belong(receipt)
        except ValueError:  # torn, or of another cube: nobody can say of which cell
            return None
        return receipt

    def _must_belong(self, receipt: Receipt) -> None:
        """Its cell is one of this cube, and its values fit into the small arrays."""
        index, shape, names = receipt.index, self._status.shape, set(receipt.values)
        inside = (isinstance(i, int) and 0 <= i < n for i, n in zip(index, shape, strict=False))
        if len(index) != len(shape) or not all(inside):
            raise ValueError(f"no cell {index}")
        if not {"status", "attempts", "error"} <= names <= set(self._arrays):
            raise ValueError("not the variables of a receipt")
        for name, value in receipt.values.items():
            room = self._arrays[name].shape[len(shape) :]
            fits = all(n <= size for n, size in zip(np.shape(value), room, strict=False))
            if np.ndim(value) != len(room) or not fits:
                raise ValueError(f"{name} of shape {np.shape(value)} does not fit {room}")

    def _looked_at(self, receipt: Receipt | None, tries: Mapping[Index, int]) -> Receipt | Folded | None:
        """The receipt if it is believed, what to say of its cell if not, nothing if that is done already."""
        if receipt is None:
            return None
        ours = receipt.lease == self.lease.token
        late = self._status[receipt.index] == DONE and (not ours or receipt.values["status"] != DONE)
        if late and not verify_cell(self.cube, receipt.index):
            return None  # finished before, or by the other of two workers that had it, and not spoilt
        try:
            verify_shards(self.cube.place, receipt.shards, full=not ours or tries[receipt.index] > 1 or None)
        except DamagedError as error:
            return Folded(receipt.index, PENDING, str(error))
        return receipt

    def _write(self, cells: Mapping[Index, Mapping[str, Any]]) -> None:
        """Put values of cells into the small arrays, chunk by chunk, `status` after all others."""
        if not cells:
            return
        self.lease.check()
        by_chunk: dict[Chunk, list[Index]] = defaultdict(list)
        for index in cells:
            by_chunk[self._chunk_of(index)].append(index)
        for chunk, members in by_chunk.items():
            self._update(chunk, {index: cells[index] for index in members})
        for index, values in cells.items():
            self._status[index] = values.get("status", self._status[index])
        self._arrays["status"][...] = self._status

    def _update(self, chunk: Chunk, cells: Mapping[Index, Mapping[str, Any]]) -> None:
        names = {name for values in cells.values() for name in values} - {"status"}
        cached = self._chunks.pop(chunk, {})
        self._chunks[chunk] = cached  # most recently used last
        while len(self._chunks) > KEPT_CHUNKS:
            del self._chunks[next(iter(self._chunks))]
        bounds = zip(chunk, self._arrays["length"].chunks, self.cube.shape, strict=True)
        where = tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in bounds)

        def update(name: str) -> None:
            array = self._arrays[name]
            if name not in cached:
                cached[name] = (
                    self._chunk(name, where) if (name, chunk) in self._there else _empty(array, where)
                )
            for index, values in cells.items():
                if name in values:
                    local = tuple(i - part.start for i, part in zip(index, where, strict=True))
                    _assign(cached[name], local, values[name], array.fill_value)
            array[where] = cached[name]
            self._there.add((name, chunk))

        self.cube.place.each(update, names)

    def _written(self, name: str) -> list[tuple[str, Chunk]]:
        """Chunks of a small array that exist: any other need not be read to know that it is empty."""
        indices = [chunk_index(stored.key) for stored in self.cube.place.list(f"{name}/c")]
        return [(name, index[: len(self.cube.shape)]) for index in indices if index]

    def _chunk(self, name: str, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        try:
            return np.array(self._arrays[name][where])
        except Exception as error:  # whatever a damaged file makes a codec raise
            raise DamagedError(
                f"{self.cube.place}: a chunk of {name} cannot be read ({one_line(error)}); "
                f"'tempo-stats verify' names its cells"
            ) from error

    def _chunk_of(self, index: Index) -> Chunk:
        chunks = self._arrays["length"].chunks
        return tuple(i // n for i, n in zip(index, chunks, strict=True))


def _told(receipt: Receipt) -> Folded:
    values, stored = receipt.values, sum(size for size, _ in receipt.shards.values())
    return Folded(
        receipt.index, values["status"], values["error"], values["worker"], values["length"], stored
    )


def _empty(array: "zarr.Array[Any]", where: tuple[slice, ...]) -> npt.NDArray[Any]:
    cells = tuple(part.stop - part.start for part in where)
    return np.full((*cells, *array.shape[len(cells) :]), array.fill_value, dtype=array.dtype)


def _assign(target: npt.NDArray[Any], local: Index, value: Any, fill: Any) -> None:
    """Set one cell, with fill after the end of what it has."""
    if isinstance(value, np.ndarray):
        row = target[local]
        row[...] = fill
        row[tuple(slice(n) for n in value.shape)] = value
    else:
        target[local] = value
