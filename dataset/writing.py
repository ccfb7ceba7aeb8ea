"""What a worker writes of one cell: blocks of rows into shards of its own, then one small receipt."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from ..errors import DamagedError
from .cube import Cube, Index
from .digest import Digest, path_digest
from .encoding import encode, row_axis
from .grid import Cell
from .lease import Permit
from .place import Place, Stored, checksum
from .schema import BLOCK, CHECKS, DONE, FAIL, FAILED, INDEX, NOT_APPLICABLE, Variable
from .shards import shard_keys, shards
from .visibility import NEVER

RECEIPTS = "status/run/receipts"  # inside an array's folder, where no Zarr reader lists
_DRIVERS_OWN = ("status", "attempts", "error")
_REQUIRED = ("token", "logical", "slot_step", "width", "check_result")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Receipt:
    """All the index needs of one try at one cell; the big arrays it vouches for by size and checksum."""

    index: Index
    lease: str
    values: Mapping[str, Any]
    shards: Mapping[str, tuple[int, int]]

    def to_bytes(self) -> bytes:
        """As it lies in the cube until the driver has folded it in."""
        arrays = {name: value for name, value in self.values.items() if isinstance(value, np.ndarray)}
        plain = {name: value for name, value in self.values.items() if name not in arrays}
        about = {"index": self.index, "lease": self.lease, "values": plain, "shards": self.shards}
        return save(arrays, metadata={"receipt": json.dumps(about)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Receipt":
        """Read one back; ValueError where the bytes are no receipt."""
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["receipt"])
            shards = {key: (size, crc) for key, (size, crc) in about["shards"].items()}
            return cls(tuple(about["index"]), about["lease"], about["values"] | arrays, shards)
        except Exception as error:
            raise ValueError(f"not a receipt: {error}") from error

    @property
    def key(self) -> str:
        """Where it lies: a name of its own for each try, so that what is removed is what was read."""
        return f"{receipts_of(self.index)}-{checksum(self.to_bytes()):08x}.safetensors"


def receipts_of(index: Index) -> str:
    """How the names of a cell's receipts begin."""
    return f"{RECEIPTS}/{'-'.join(map(str, index))}"


def receipts(place: Place, index: Index | None = None) -> list[Stored]:
    """Receipts that wait to be folded, oldest first; of one cell, or all."""
    mine = "" if index is None else f"{receipts_of(index)}-"
    there = [s for s in place.list(RECEIPTS) if s.key.endswith(".safetensors") and s.key.startswith(mine)]
    return sorted(there, key=lambda stored: stored.modified)


class CellWriter:
    """Writes one cell; nothing counts until `finish` (or `fail`) has left the receipt.

    Blocks come in order, 64 rows each, the last one shorter: a finished block is a finished shard, which
    nobody touches again. A block has the dims of its variable, with the captured layers and heads only.
    """

    def __init__(self, cube: Cube, index: Index, cell: Cell, permit: Permit, attempt: int = 1) -> None:
        self.cube, self.index, self.cell, self.attempt = cube, index, cell, attempt
        self._permit = permit
        self._shards: dict[str, tuple[int, int]] = {}
        self._rows: dict[str, int] = {}
        self._digest = Digest()

    def write(self, name: str, block: Array, start: int) -> None:
        """Write rows start, start + 1, ... of a big array; log weights or log-probabilities where packed."""
        variable = self.cube.data[name]
        axis = row_axis(variable)
        self._must_line_up(variable, start, block.shape[axis])
        stored = self._stored(variable, block)
        self._digest.block(variable, stored)
        self._rows[name] = start + block.shape[axis]
        whole = self._spread(variable, stored, start)
        corner = (*self.index, *(start if i == axis else 0 for i in range(len(variable.dims))))
        cells = (None,) * len(self.index)
        for key, data in shards(self.cube.metas[name], corner, whole[cells], variable.fill):
            if data:
                self._put(f"{name}/{key}", data)

    def _put(self, key: str, data: bytes) -> None:
        """Put one shard, if the run still holds the cube, and remember what was put."""
        self._permit.check()
        self.cube.place.put(key, data)
        self._shards[key] = len(data), checksum(data)

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> Receipt:
        """Check that all of it is there and leave the receipt; a treatment check that failed fails the cell.

        `applied_mode` is the visibility that was really applied, where that is not the declared one.
        """
        values = self._small(small)
        self._must_be_complete(values)
        red = failed_checks(values["check_result"], self.cell.control)
        told = {"status": FAILED, "error": red} if red else {"status": DONE, "error": ""}
        cell, facts = self.cell, self.cube.facts
        values["digest"] = self._digest.finish(values, tuple(self.cube.data))
        values["path_digest"] = path_digest(
            cell.prompt, facts.sha256, cell.control, cell.ablate, applied_mode or cell.mode, values
        )
        self._clear_older_tries()
        return self._leave(values | told | {"attempts": self.attempt})

    def fail(self, reason: str, worker: str = "") -> Receipt:
        """Leave word that this try went wrong; nothing it wrote counts."""
        self._shards.clear()
        empty = self._small(dict.fromkeys(_REQUIRED, ()) | {"check_result": NOT_APPLICABLE})
        told = {"status": FAILED, "error": _text(reason), "attempts": self.attempt, "worker": _text(worker)}
        return self._leave(empty | told | {"digest": "", "path_digest": ""})

    def _leave(self, values: Mapping[str, Any]) -> Receipt:
        verify_shards(self.cube.place, self._shards)
        receipt = Receipt(self.index, self._permit.token, values, dict(self._shards))
        self._permit.check()
        self.cube.place.put(receipt.key, receipt.to_bytes())
        return receipt

    def _clear_older_tries(self) -> None:
        """Shards that a longer try left before it was killed would pass for rows of this one."""
        place, metas = self.cube.place, self.cube.metas
        every = [f"{name}/{key}" for name in self.cube.data for key in shard_keys(metas[name], self.index)]
        others = [key for key in every if key not in self._shards]
        sizes = place.each(place.size, others)
        if left := [key for key, size in zip(others, sizes, strict=True) if size is not None]:
            self._permit.check()
            place.delete(left)

    def _must_line_up(self, variable: Variable, start: int, rows: int) -> None:
        """Refuse a block that would share a shard with another write."""
        here = f"{variable.name} of cell {self.index}"
        done, size = self._rows.get(variable.name, 0), self.cube.sizes[variable.dims[row_axis(variable)]]
        if start % BLOCK:
            raise ValueError(
                f"{here}: rows must begin at a multiple of {BLOCK}, got {start}: two writes would race"
            )
        if start != done:
            raise ValueError(
                f"{here}: the next row is {done}, got {start}; after a short block nothing may follow"
            )
        if not 0 < rows <= BLOCK:
            raise ValueError(f"{here}: a block has 1 to {BLOCK} rows, got {rows}")
        if start + rows > size:
            raise ValueError(f"{here}: rows to {start + rows} do not fit in {size}")

    def _stored(self, variable: Variable, block: Array) -> Array:
        """The block as its shard holds it, after a look at its shape."""
        rows, captured = row_axis(variable), self.cube.captured(variable)
        want = [len(captured[dim]) if dim in captured else self.cube.sizes[dim] for dim in variable.dims]
        fits = block.ndim == len(want) and all(
            axis == rows or have == size or (dim == "key" and have < size)
            for axis, (dim, have, size) in enumerate(zip(variable.dims, block.shape, want, strict=True))
        )
        if not fits:
            raise ValueError(
                f"{variable.name}: a block of shape {block.shape} does not fit {variable.dims} {want}"
            )
        return encode(block, variable.codec) if variable.codec else np.asarray(block, np.float32)

    def _spread(self, variable: Variable, stored: Array, start: int) -> Array:
        """The whole shard: fill where nothing was asked for, and below the last row and key.

        Writing all of it, never a part, keeps rows of an earlier try that was killed from showing through.
        """
        rows, captured = row_axis(variable), self.cube.captured(variable)
        shape = [self.cube.sizes[dim] for dim in variable.dims]
        shape[rows] = min(BLOCK, shape[rows] - start)
        if tuple(shape) == stored.shape:
            return stored
        out = np.full(shape, variable.fill, dtype=stored.dtype)
        if captured:
            out[
                np.ix_(
                    *(
                        captured.get(dim, np.arange(n))
                        for dim, n in zip(variable.dims, stored.shape, strict=True)
                    )
                )
            ] = stored
        else:
            out[tuple(slice(n) for n in stored.shape)] = stored
        return out

    def _small(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every small variable, in its dtype, with fill for what was not given."""
        known = {variable.name: variable for variable in INDEX if variable.name not in _DRIVERS_OWN}
        if strange := [name for name in given if name not in known]:
            raise ValueError(f"no such variable of the index: {', '.join(strange)}")
        if absent := [name for name in _REQUIRED if name not in given]:
            raise ValueError(f"a cell cannot be finished without {', '.join(absent)}")
        sizes = self.cube.sizes | {"slot": len(given["token"]), "step": len(given["width"])}
        values: dict[str, Any] = {}
        for name, variable in known.items():
            shape = tuple(sizes[dim] for dim in variable.dims)
            value = given.get(name, NEVER if name == "pruned_at" else variable.fill)
            if variable.dims:
                value = np.ascontiguousarray(np.broadcast_to(np.asarray(value, variable.dtype), shape))
            elif variable.dtype == "string":
                value = _text(value)
            else:
                value = np.asarray(value, variable.dtype).item()
            values[name] = value
        return values | {"length": sizes["slot"]}

    def _must_be_complete(self, values: Mapping[str, Any]) -> None:
        length, sets = values["length"], len(values["width"])
        if length > self.cube.sizes["slot"] or sets > self.cube.sizes["step"]:
            raise ValueError(f"cell {self.index}: {length} slots and {sets} sets do not fit in the cube")
        fed = np.bincount(values["slot_step"][values["slot_step"] >= 0], minlength=sets)
        if not np.array_equal(fed, values["width"]) or not values["width"].all():
            raise ValueError(f"cell {self.index}: slot_step has sets of {fed}, width says {values['width']}")
        for name, variable in self.cube.data.items():
            want = sets if variable.dims[row_axis(variable)] == "step" else length
            if self._rows.get(name, 0) != want:
                raise ValueError(f"cell {self.index}: {name} has {self._rows.get(name, 0)} of {want} rows")


def _text(value: Any) -> str:
    """Text that can be stored: names of files need not be UTF-8."""
    return str(value).encode("utf-8", "replace").decode()


def failed_checks(results: Array, control: str | None) -> str:
    """The treatment checks that failed, in words; under `no_mask` they must, and the cell counts as done."""
    red = [name for name, result in zip(CHECKS, results, strict=True) if result == FAIL]
    return f"treatment check {', '.join(red)} failed" if red and control != "no_mask" else ""


def verify_shards(place: Place, shards: Mapping[str, tuple[int, int]], *, full: bool | None = None) -> None:
    """Presence and size of every shard; `full` (the default where reading is cheap) its checksum too."""
    for key, (size, crc) in shards.items():
        if full if full is not None else place.path is not None:
            data = place.get(key)
            found = None if data is None else len(data)
            if data is not None and found == size and checksum(data) != crc:
                raise DamagedError(f"{place}: shard {key} is not what was written")
        else:
            found = place.size(key)
        if found != size:
            raise DamagedError(
                f"{place}: shard {key} " + ("is missing" if found is None else f"has {found} of {size} bytes")
            )
