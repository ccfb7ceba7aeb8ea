"""The bytes of one shard, made here: Zarr reads the old shard before it writes a new one, and takes longer.

The layout is that of Zarr's core codec `sharding_indexed`: inner chunks one after the other, then an index of
(offset, length) for each of them, all ones where a chunk has no value, then the index's checksum.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numcodecs.blosc as blosc
import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c

# Level 1 in large blocks takes a third of the time of level 3 and the files are smaller.
LEVEL, BLOSC_BLOCK = 1, 1 << 19
ABSENT = 2**64 - 1

Array = npt.NDArray[Any]
Ints = tuple[int, ...]


def shards(meta: Mapping[str, Any], start: Ints, block: Array, fill: Any) -> Iterator[tuple[str, bytes]]:
    """Key (after the array's name) and bytes of every shard that a block fills.

    `start` is where the block begins in the array; it must begin at a shard's border and end at one, or at
    the end of the array. A shard without any value has no bytes.
    """
    whole = meta["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = tuple(meta["codecs"][0]["configuration"]["chunk_shape"])
    first = tuple(i // n for i, n in zip(start, whole, strict=True))
    grid = tuple(-(-n // m) for n, m in zip(block.shape, whole, strict=True))
    inner = tuple(n // m for n, m in zip(whole, chunk, strict=True))
    for at, part in _parts(block, whole, grid):
        yield (
            shard_key(meta, (a + b for a, b in zip(first, at, strict=True))),
            _encoded(part, chunk, inner, fill),
        )


def shard_key(meta: Mapping[str, Any], at: Iterable[int]) -> str:
    """Where a shard lies, after the array's name."""
    between: str = meta["chunk_key_encoding"]["configuration"]["separator"]
    return between.join(("c", *map(str, at)))


def shard_keys(meta: Mapping[str, Any], index: Ints) -> Iterator[str]:
    """Where all shards of one cell lie, after the array's name."""
    whole = meta["chunk_grid"]["configuration"]["chunk_shape"]
    grid = [-(-n // m) for n, m in zip(meta["shape"], whole, strict=True)][len(index) :]
    return (shard_key(meta, (*index, *at)) for at in itertools.product(*map(range, grid)))


def _parts(block: Array, size: Sequence[int], grid: Ints) -> Iterator[tuple[Ints, Array]]:
    """Pieces of a block in the order of their places in the grid; those beyond its end are empty."""
    for at in itertools.product(*map(range, grid)):
        yield at, block[tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, size, strict=True))]


def _encoded(part: Array, chunk: Ints, grid: Ints, fill: Any) -> bytes:
    """One shard; empty where every value is fill."""
    index = np.full((math.prod(grid), 2), ABSENT, "<u8")
    pieces, end = [], 0
    for n, (_, piece) in enumerate(_parts(part, chunk, grid)):
        values = _chunk(piece, chunk, fill)
        if values is not None:
            data = blosc.compress(values, b"zstd", LEVEL, blosc.SHUFFLE, BLOSC_BLOCK)
            pieces += [data, _checksum(data)]
            index[n] = end, len(data) + 4
            end += len(data) + 4
    table = index.tobytes()
    return b"".join((*pieces, table, _checksum(table))) if pieces else b""


def _chunk(values: Array, shape: Ints, fill: Any) -> Array | None:
    """The values of an inner chunk, padded where the array ends; None where all of them are fill."""
    nothing = np.isnan(values) if fill != fill else values == fill
    if nothing.all():
        return None
    if values.shape == shape:
        return np.ascontiguousarray(values)
    padded = np.full(shape, fill, values.dtype)
    padded[tuple(slice(n) for n in values.shape)] = values
    return padded


def _checksum(data: bytes) -> bytes:
    return int(crc32c(data)).to_bytes(4, "little")
