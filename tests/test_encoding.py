import json
import multiprocessing
import time
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cubes import facts, fill, grid
from tempocube.dataset import schema
from tempocube.dataset.encoding import (
    CHUNK_BYTES,
    HIDDEN,
    LAST_VISIBLE,
    MISSING,
    STATUS_CELLS,
    attributes,
    chunk_shape,
    decode,
    encode,
    index_chunks,
    shard_shape,
    status_chunks,
)
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import data_variables, sizes

logs = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-80, 0, width=32))


@given(logs)
def test_weights_from_one_to_e_to_the_minus_80_keep_their_value_to_four_in_a_thousand(values):
    weights = decode(encode(values, "attention"), "attention", logs=False)
    assert np.abs(weights / np.exp(values.astype(np.float64)) - 1).max() <= 0.004


@given(logs)
def test_log_probabilities_keep_their_value_to_a_4000th(values):
    near = np.maximum(values, -31.9)
    assert np.abs(decode(encode(near, "logits"), "logits", logs=True) - near).max() <= 1 / 4096 + 2e-6


def test_hidden_is_exactly_zero_missing_is_nan_and_visible_is_never_hidden():
    codes = encode(np.array([-np.inf, np.nan, -1e9, 1e-7, 0]), "attention")
    assert codes.tolist() == [HIDDEN, MISSING, LAST_VISIBLE, 0, 0]
    weights = decode(codes, "attention", logs=False)
    assert weights[0] == 0
    assert np.isnan(weights[1])
    assert weights[2] > 0 or LAST_VISIBLE / 128 > 103  # e^-511 is below float32, its log is not
    assert decode(codes, "attention", logs=True)[[0, 2]].tolist() == [-np.inf, -LAST_VISIBLE / 128]


def test_every_code_survives_a_round_trip():
    codes = np.arange(65536, dtype=np.uint16)
    for codec in ("attention", "logits"):
        assert (encode(decode(codes, codec, logs=True), codec) == codes).all()


shapes = st.builds(
    facts,
    layers=st.integers(1, 40),
    heads=st.integers(1, 40),
    vocab=st.integers(2, 130_000),
    hidden=st.integers(1, 4096),
    neurons=st.integers(1, 9000),
)


@given(shapes, st.integers(1, 400))
def test_chunks_divide_shards_shards_hold_64_rows_and_chunks_stay_small(model, slots):
    asked = grid(
        max_slots=slots, capture={"keys_values": True, "residual": True, "internals": [0]}, threshold=0.01
    )
    lengths = sizes(asked, model, prompt_tokens=5)
    for variable in data_variables(asked):
        chunk, shard = chunk_shape(variable, lengths), shard_shape(variable, lengths)
        assert all(whole % part == 0 for whole, part in zip(shard, chunk, strict=True))
        rows = [n for n, dim in zip(shard, variable.dims, strict=True) if dim in ("query", "slot", "step")]
        assert rows == [64]
        one_layer = np.prod(chunk) // chunk[0] * np.dtype(variable.dtype).itemsize
        assert np.prod(chunk) * np.dtype(variable.dtype).itemsize <= max(CHUNK_BYTES, one_layer)


@given(st.lists(st.integers(1, 3000), min_size=3, max_size=6))
def test_index_chunks_hold_about_128_cells_and_status_is_one_chunk_with_room(lengths):
    cells = {f"d{i}": n for i, n in enumerate(lengths)}
    assert 1 <= np.prod(index_chunks(cells)) <= 128
    room = status_chunks(cells)
    assert all(have >= need for have, need in zip(room, lengths, strict=True))
    if np.prod(lengths) <= STATUS_CELLS // 2:
        assert STATUS_CELLS // 2 <= np.prod(room) <= STATUS_CELLS


def test_capacity_is_the_largest_over_all_axes_and_the_lowest_point_of_a_curve():
    assert schema.capacity(grid(threshold=[0.5, 0.1], max_tokens=[3, 7], max_width=64), 5) == 5 + 7 * 10
    curve = {"start": 0.5, "end": 0.25, "curve": "bezier"}
    assert schema.capacity(grid(threshold=curve, max_tokens=3), 5) == 5 + 3 * 4
    assert schema.capacity(grid(threshold=0.01, max_width=16, max_tokens=3), 5) == 5 + 3 * 16
    assert schema.capacity(grid(threshold=0.01, max_slots=20), 5) == 20


@pytest.mark.parametrize("storage", ["log16", "float32"])
def test_plain_xarray_reads_both_storages(tmp_path, storage):
    cube = fill(tmp_path / "a.zarr", grid(storage={"attention": storage, "logits": storage}))
    plain = xr.open_zarr(tmp_path / "a.zarr")
    assert plain.prompt_text.values.tolist() == ["prompt 0", "prompt 1"]
    ours = {name: cube_values(cube, name) for name in ("attention", "log_attention", "logits")}
    name = "log_attention" if storage == "log16" else "attention"
    theirs = plain[name].isel(prompt=0, seed=0, mode=0).values
    there = np.isfinite(ours[name])
    hidden = plain[name].attrs.get("hidden_below", -np.inf)
    if storage == "log16":
        assert np.isneginf(ours[name]).sum() == (theirs < hidden).sum() > 0
    np.testing.assert_allclose(theirs[there], ours[name][there], rtol=1e-6)
    assert np.isnan(theirs).sum() == np.isnan(ours[name]).sum() > 0
    np.testing.assert_allclose(plain.logits.isel(prompt=0, seed=0, mode=0).values, ours["logits"], rtol=1e-6)
    json.dumps(plain.attrs)


def cube_values(cube, name):
    return open_cube(cube, trim=False)[name].isel(prompt=0, seed=0, mode=0).values


@pytest.mark.slow
def test_a_full_cell_becomes_weights_at_least_five_times_faster_than_through_xarray():
    """The codes of a long cell (half the layers of 28) in memory; median of five each, taken in turn."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6000, (14, 24, 334, 334)).astype(np.uint16)
    codes[..., np.triu(np.ones((334, 334), bool), 1)] = MISSING
    packed = xr.Variable(["layer", "head", "query", "key"], codes, attributes(schema.DATA["log_attention"]))

    def through_xarray():
        logs = xr.conventions.decode_cf_variable("log_attention", packed).values
        return np.where(logs < packed.attrs["hidden_below"], 0, np.exp(logs))

    def seconds(decoded):
        start = time.perf_counter()
        decoded()
        return time.perf_counter() - start

    ours = lambda: decode(codes, "attention", logs=False)  # noqa: E731
    np.testing.assert_allclose(ours(), through_xarray(), rtol=1e-5)
    times = np.array([(seconds(ours), seconds(through_xarray)) for _ in range(5)])
    fast, slow = np.median(times, axis=0)
    assert slow >= 5 * fast


def test_a_forked_process_decodes_after_its_parent_did():
    codes = np.zeros(1 << 22, np.uint16)
    assert decode(codes, "attention", logs=False).all()
    child = multiprocessing.get_context("fork").Process(
        target=decode, args=(codes, "attention"), kwargs={"logs": False}
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python warns of forking with threads: that is the point
        child.start()
    child.join(30)
    assert child.exitcode == 0
