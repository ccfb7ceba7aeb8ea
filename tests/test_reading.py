import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import PROMPT_TOKENS, facts, fill, grid, write
from tempocube.dataset.cube import Cube
from tempocube.dataset.reading import MOST_CHUNKS, open_cube
from tempocube.dataset.store import Driver
from tempocube.errors import BadInput


def test_a_cube_is_lazy_until_values_are_asked_for(where):
    fill(where, grid())
    lazy = open_cube(where)
    assert not lazy.attention.variable._in_memory
    one = lazy.attention.sel(prompt="p1", seed=2, mode="visible", layer=1)
    assert not one.variable._in_memory
    assert one.values.shape == (3, lazy.sizes["query"], lazy.sizes["key"])


def test_chunks_auto_gives_dask_arrays_with_the_same_values(where):
    fill(where, grid())
    chunked, lazy = open_cube(where, chunks="auto"), open_cube(where)
    assert chunked.attention.chunksizes["layer"] == (2,)  # a tiny model: all its layers share an inner chunk
    np.testing.assert_array_equal(chunked.log_attention.values, lazy.log_attention.values)
    total = chunked.attention.sum().compute().item()
    assert total == pytest.approx(np.nansum(lazy.attention.values), rel=1e-4)
    with pytest.raises(BadInput, match="None or 'auto'"):
        open_cube(where, chunks={"layer": 1})


@given(st.integers(1, 400), st.integers(1, 10), st.integers(1, 40))
def test_a_cube_of_any_shape_has_few_chunks_and_decodes_no_inner_chunk_twice(prompts, seeds, layers):
    from types import SimpleNamespace

    from tempocube.dataset.encoding import chunk_shape
    from tempocube.dataset.reading import _chunks
    from tempocube.dataset.schema import DATA

    cells = {"prompt": prompts, "seed": seeds, "mode": 2}
    sizes = {"layer": layers, "head": 24, "query": 334, "key": 334}
    inner = chunk_shape(DATA["log_attention"], sizes)
    meta = {"codecs": [{"configuration": {"chunk_shape": [1, 1, 1, *inner]}}]}
    cube = SimpleNamespace(
        shape=tuple(cells.values()),
        labels=SimpleNamespace(dims=lambda: cells),
        data={"log_attention": DATA["log_attention"]},
        metas={"log_attention": meta},
    )
    blocks = _chunks(cube, SimpleNamespace(name="attention", sizes=cells | sizes))
    assert blocks["layer"] == inner[0]
    count = np.prod([np.ceil(n / blocks[dim]) for dim, n in (cells | {"layer": layers}).items()])
    assert count <= 2 * MOST_CHUNKS


def test_an_open_cube_travels_to_another_process(where):
    fill(where, grid())
    there = pickle.loads(pickle.dumps(open_cube(where)))
    np.testing.assert_array_equal(there.logits.values, open_cube(where).logits.values)


def test_a_cube_still_being_written_opens_with_what_is_done(where):
    model = facts()
    with Driver(where, grid(), model, PROMPT_TOKENS) as run:
        assert open_cube(where).sizes["slot"] == 0
        write(run.todo()[0], model)
        run.fold()
        now = open_cube(where)
        assert int((now.status == 1).sum()) == 1
        assert now.sizes["slot"] == int(now.length.max()) > 0
        assert np.isnan(now.attention.isel(prompt=1).values).all()


@pytest.mark.parametrize("name", ["with space.zarr", "é#1%20?.zarr", "a.b"])
def test_folders_may_have_any_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(name, grid(1))
    assert (tmp_path / name / "zarr.json").exists()
    assert open_cube(tmp_path / name).sizes["prompt"] == 1
    assert Cube.open((tmp_path / name).as_uri()).shape == (1, 2, 2)


def test_tier_two_and_three_and_projections_have_their_dims(where, tmp_path):
    np.save(tmp_path / "v.npy", np.ones(12))
    capture = {
        "keys_values": True,
        "residual": True,
        "internals": [1],
        "neurons": [0, 5],
        "project": {"calm": str(tmp_path / "v.npy")},
    }
    fill(where, grid(1, capture=capture))
    read = open_cube(where)
    cells = ("prompt", "seed", "mode")
    assert read.residual.dims == (*cells, "residual_layer", "slot", "hidden")
    assert read.residual.sizes["residual_layer"] == 3
    assert read.cached_key.dims == (*cells, "layer", "kv_head", "slot", "head_dim")
    assert read.projection.dims == (*cells, "residual_layer", "slot", "trait")
    assert read.trait.values.tolist() == ["calm"]
    assert read.neuron.values.tolist() == [0, 5]
    first = read.isel(prompt=0, seed=0, mode=0)
    slots = slice(int(first.length))
    for name in ("q", "k", "v", "mlp_up", "mlp_gate", "mlp_act", "mlp_down"):
        values = first[name].isel(slot=slots)
        assert np.isnan(values.sel(layer=0)).all()
        assert np.isfinite(values.sel(layer=1)).all()
