"""How numbers lie in a cube: log16 codes, chunk and shard shapes."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt

from .schema import BLOCK, Variable

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]

SCALE = {"attention": 128, "logits": 2048}  # codes per nat
LAST_VISIBLE, HIDDEN, MISSING = 65533, 65534, 65535

CHUNK_BYTES = 1 << 20  # inner chunks stay under this where one layer (or one step) does
INDEX_CELLS = 128  # cells in one chunk of a small array
STATUS_CELLS = 1 << 20  # cells that the one chunk of `status` has room for
SLAB = 1 << 17  # values coded at a time: what lies between stays in the cache


def encode(logs: npt.NDArray[np.floating], codec: str) -> Codes:
    """Logs to log16 codes: -inf is hidden, NaN is not there; what is visible never becomes hidden."""
    flat = np.ascontiguousarray(logs, dtype=np.float32).reshape(-1)
    codes = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, SLAB):
        part = flat[start : start + SLAB]
        hidden, missing = np.isneginf(part), np.isnan(part)
        scaled = np.maximum(part, -1e30) * np.float32(
            -SCALE[codec]
        )  # visible is never so low that it overflows
        np.rint(scaled, out=scaled)
        np.clip(scaled, 0, LAST_VISIBLE, out=scaled)
        np.copyto(scaled, HIDDEN, where=hidden)
        np.copyto(scaled, MISSING, where=missing)
        codes[start : start + SLAB] = scaled
    return codes.reshape(logs.shape)


@cache
def table(codec: str, logs: bool) -> Floats:
    """What each of the 65,536 codes stands for, as a log or as a weight (hidden: -inf, exactly 0)."""
    values = np.arange(65536, dtype=np.float64) / -SCALE[codec]
    values[HIDDEN], values[MISSING] = -np.inf, np.nan
    decoded = (values if logs else np.exp(values)).astype(np.float32)
    decoded.flags.writeable = False
    return decoded


def decode(codes: Codes, codec: str, *, logs: bool) -> Floats:
    """Codes through the table, slab by slab, on all cores if there are many."""
    values, flat = table(codec, logs), np.ascontiguousarray(codes).reshape(-1)
    out = np.empty(flat.size, dtype=np.float32)

    def slab(start: int) -> None:
        part = slice(start, start + SLAB)
        np.take(values, flat[part], out=out[part], mode="clip")

    starts = range(0, flat.size, SLAB)
    for _ in map(slab, starts) if len(starts) < 16 else _threads().map(slab, starts):
        pass
    return out.reshape(codes.shape)


@cache
def _threads() -> ThreadPoolExecutor:
    """Looking codes up lets go of the interpreter."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "decode")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has no threads of its parent's pool


def attributes(variable: Variable) -> dict[str, object]:
    """Attributes that let any xarray user read the variable."""
    known: dict[str, object] = {"long_name": variable.meaning}
    if variable.unit:
        known["units"] = variable.unit
    if variable.codec:
        scale = SCALE[variable.codec]
        known |= {"_FillValue": MISSING, "scale_factor": -1 / scale}
    if variable.codec == "attention":
        lowest = -(HIDDEN - 0.5) / SCALE["attention"]
        known |= {
            "hidden_below": lowest,
            "comment": f"decoded values under {lowest:.4f} mean hidden (weight exactly 0): drop them",
        }
    return known


def chunk_shape(variable: Variable, sizes: dict[str, int]) -> tuple[int, ...]:
    """Inner chunk of one cell's array: 64 rows (and keys), everything else, as many layers as fit."""
    shape = [BLOCK if dim in ("query", "key", "slot", "step") else sizes[dim] for dim in variable.dims]
    rest = math.prod(shape[1:]) * np.dtype(variable.dtype).itemsize
    fit = max(1, min(shape[0], CHUNK_BYTES // rest))
    if variable.dims[0] == "step":  # a shard is one block of rows, which its chunks must divide
        fit = 1 << (fit.bit_length() - 1)
    return (fit, *shape[1:])


def shard_shape(variable: Variable, sizes: dict[str, int]) -> tuple[int, ...]:
    """One block of rows of one cell, with all the rest of it."""
    chunk = chunk_shape(variable, sizes)
    rows = row_axis(variable)
    whole = [math.ceil(sizes[dim] / n) * n for dim, n in zip(variable.dims, chunk, strict=True)]
    whole[rows] = BLOCK
    return tuple(whole)


def row_axis(variable: Variable) -> int:
    """Which axis of a big array is written block by block."""
    return next(i for i, dim in enumerate(variable.dims) if dim in ("query", "slot", "step"))


def index_chunks(cells: dict[str, int]) -> tuple[int, ...]:
    """Chunk over the cell dims of a small array: about 128 cells, whole trailing dims first.

    The first dim, prompts, takes what room is left, beyond its size too: it is the one that grows.
    """
    chunks: list[int] = []
    room = INDEX_CELLS
    for size in list(cells.values())[:0:-1]:
        chunks.insert(0, min(size, room))
        room //= chunks[0]
    return (max(1, room), *chunks)


def status_chunks(cells: dict[str, int]) -> tuple[int, ...]:
    """The one chunk of `status`: others may grow to 8 or four times their size, prompts take the rest."""
    first, *others = cells
    room = {name: cells[name] for name in others}
    for name in reversed(others):
        wish = max(8, 4 * cells[name])
        if cells[first] * math.prod(room.values()) // room[name] * wish <= STATUS_CELLS:
            room[name] = wish
    return (max(cells[first], STATUS_CELLS // math.prod(room.values())), *room.values())
