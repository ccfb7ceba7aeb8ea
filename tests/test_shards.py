import math

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from tempocube.dataset.cube import chunk_index
from tempocube.dataset.shards import shard_key, shards


@st.composite
def arrays(draw):
    """An array of a cell dim and three others, with chunks, shards and values that end anywhere."""
    chunk = [draw(st.integers(1, 4)) for _ in range(3)]
    whole = [n * draw(st.integers(1, 3)) for n in chunk]
    shape = [draw(st.integers(1, 2 * n)) for n in whole]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(["uint16", "float32"]))
    values = rng.integers(0, 5, shape).astype(kind)
    fill = 65535 if kind == "uint16" else math.nan
    values[tuple(slice(draw(st.integers(0, n)), None) for n in shape)] = fill
    return chunk, whole, values, fill


@given(arrays())
def test_zarr_reads_what_was_encoded_here(made):
    chunk, whole, values, fill = made
    store = MemoryStore()
    array = zarr.create_array(
        store,
        name="x",
        shape=(2, *values.shape),
        chunks=(1, *chunk),
        shards=(1, *whole),
        dtype=values.dtype,
        fill_value=fill,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", blocksize=1 << 19), Crc32cCodec()],
    )
    empty = 0
    for row in range(0, values.shape[0], whole[0]):
        block = values[None, row : row + whole[0]]
        for key, data in shards(array.metadata.to_dict(), (1, row, 0, 0), block, fill):
            empty += not data
            if data:
                store._store_dict[f"x/{key}"] = default_buffer_prototype().buffer.from_bytes(data)
    read = zarr.Array.from_dict(StorePath(store, "x"), array.metadata.to_dict())
    np.testing.assert_array_equal(read[1], values)
    np.testing.assert_array_equal(read[0], np.full_like(values, fill))
    if np.isnan(values).all() if fill != fill else (values == fill).all():
        assert empty
        assert not any(key.startswith("x/c") for key in store._store_dict)


@pytest.mark.parametrize(("between", "key"), [("/", "c/1/0/2"), (".", "c.1.0.2")])
def test_shards_lie_where_the_array_says(between, key):
    meta = {"chunk_key_encoding": {"configuration": {"separator": between}}}
    assert shard_key(meta, (1, 0, 2)) == key
    assert chunk_index(f"logits/{key}") == (1, 0, 2)
