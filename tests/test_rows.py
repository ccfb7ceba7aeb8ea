"""Rows on their way out: blocks of 64, whatever the pieces, as a real cell writer demands them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cubes
from tempocube.capture.rows import Kept, Rows
from tempocube.dataset.encoding import row_axis
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import BLOCK, DATA
from tempocube.dataset.store import Driver

SIZES = {"layer": 2, "residual_layer": 3, "head": 3, "kv_head": 1, "head_dim": 4, "hidden": 5, "vocab": 7}
RAGGED = ("log_attention", "attention")
STRAIGHT = ("logits", "residual", "cached_key", "q")

pieces = st.lists(st.integers(1, 3) | st.integers(1, 150), max_size=12)


class Listed:
    """A sink that lists what it is given."""

    def __init__(self):
        self.blocks = []

    def write(self, name, block, start):
        self.blocks.append((name, start, block))

    def finish(self, small, *, applied_mode=None):
        raise AssertionError("rows do not finish an experiment")


def values(name, rows, keys=None, seed=0):
    """A piece of so many rows of a variable, all numbers different."""
    dims = DATA[name].dims
    sizes = SIZES | {"slot": rows, "step": rows, "query": rows, "key": keys}
    return np.random.default_rng([seed, rows]).normal(size=[sizes[dim] for dim in dims]).astype(np.float32)


def added(name, counts, sink):
    """Hand the pieces over; all of them, a later one with more keys."""
    rows, made, total = Rows(sink, name), [], 0
    for number, count in enumerate(counts):
        total += count
        made.append(values(name, count, total, number))
        rows.add(made[-1])
    rows.close()
    return made


def whole(name, made):
    """The pieces, one below the other."""
    if name not in RAGGED:
        return np.concatenate(made, axis=row_axis(DATA[name]))
    keys = made[-1].shape[-1]
    wide = [
        np.pad(each, [(0, 0)] * 3 + [(0, keys - each.shape[-1])], constant_values=np.nan) for each in made
    ]
    return np.concatenate(wide, axis=2)


@given(pieces, st.sampled_from(RAGGED + STRAIGHT))
def test_blocks_have_64_rows_and_the_last_one_what_is_left(counts, name):
    sink = Listed()
    added(name, counts, sink)
    total, axis = sum(counts), row_axis(DATA[name])
    assert [block.shape[axis] for _, _, block in sink.blocks] == [
        min(BLOCK, total - start) for start in range(0, total, BLOCK)
    ]
    assert [(each, start) for each, start, _ in sink.blocks] == [
        (name, start) for start in range(0, total, BLOCK)
    ]


@given(pieces, st.sampled_from(RAGGED + STRAIGHT))
def test_rows_keep_their_order_and_numbers_and_have_nan_for_keys_of_later(counts, name):
    sink = Listed()
    if not (made := added(name, counts, sink)):
        assert not sink.blocks
        return
    expected, axis = whole(name, made), row_axis(DATA[name])
    for _, start, block in sink.blocks:
        rows = expected.take(range(start, start + block.shape[axis]), axis)
        if name in RAGGED:
            assert block.shape[-1] <= expected.shape[-1]
            assert np.isnan(rows[..., block.shape[-1] :]).all()
            rows = rows[..., : block.shape[-1]]
        np.testing.assert_array_equal(block, rows)
        assert block.dtype == np.float32


@given(
    st.integers(1, 150), st.lists(st.integers(1, 70), max_size=3), st.sampled_from(["attention", "residual"])
)
def test_a_block_leaves_as_soon_as_it_is_full(first, more, name):
    sink, done = Listed(), 0
    rows = Rows(sink, name)
    for count in [first, *more]:
        done += count
        rows.add(values(name, count, done))
        assert len(sink.blocks) == done // BLOCK


@given(pieces, pieces, st.sampled_from(["attention", "residual"]))
def test_pieces_that_experiments_share_are_left_as_they_are(before, after, name):
    shared = values(name, 100, 400)
    shared.flags.writeable = False
    original, sinks, axis = shared.copy(), [Listed(), Listed()], row_axis(DATA[name])
    for sink, others in zip(sinks, (before, after), strict=True):
        rows = Rows(sink, name)
        for count in others:
            rows.add(values(name, count, 400))
        rows.add(shared)
        rows.close()
        own = np.concatenate([block for _, _, block in sink.blocks], axis)
        there = range(sum(others), sum(others) + shared.shape[axis])
        np.testing.assert_array_equal(own.take(there, axis), shared)
    np.testing.assert_array_equal(shared, original)


def test_closing_with_nothing_waiting_writes_nothing():
    sink = Listed()
    Rows(sink, "attention").close()
    assert not sink.blocks
    rows = Rows(sink, "residual")
    rows.add(values("residual", BLOCK))
    rows.close()
    rows.close()
    assert [start for _, start, _ in sink.blocks] == [0]


@given(pieces.filter(bool), st.sampled_from(RAGGED + STRAIGHT))
def test_kept_rows_come_back_whole(counts, name):
    kept = Kept()
    made = added(name, counts, kept)
    np.testing.assert_array_equal(kept.data[name], whole(name, made))


@given(pieces.filter(bool))
def test_kept_rows_can_be_handed_on_with_other_small_arrays(counts):
    kept, other = Kept(), Kept()
    for name in ("attention", "residual"):
        added(name, counts, kept)
    kept.finish({"text": "as it was", "seconds": 1.0}, applied_mode="visible")
    kept.replay(other, text="as it should be")
    assert other.small == {"text": "as it should be", "seconds": 1.0}
    assert other.applied_mode == "visible"
    assert other.data.keys() == kept.data.keys() == {"attention", "residual"}
    for name in kept.data:
        np.testing.assert_array_equal(other.data[name], kept.data[name])


@pytest.mark.parametrize("replayed", [False, True])
def test_a_cell_writer_takes_what_rows_give_it(tmp_path, replayed):
    """Pieces as an engine makes them: the prompt in blocks, then sets; more than a block of slots."""
    model = cubes.facts()
    exact = {"attention": "float32", "logits": "float32"}
    asked = cubes.grid(1, seeds=[1], modes=["visible"], max_tokens=40, storage=exact)
    with Driver(tmp_path / "cube.zarr", asked, model, cubes.PROMPT_TOKENS) as drive:
        (task,) = drive.todo()
        small, logs, readout = cubes.experiment(task.cell, model)
        writer = task.writer()
        sink = Kept() if replayed else writer
        attention, logits = Rows(sink, "attention"), Rows(sink, "logits")
        start = 0
        for step, width in enumerate([cubes.PROMPT_TOKENS, *small["width"]]):
            stop = start + width
            attention.add(np.exp(logs[:, :, start:stop, :stop]))
            if step:
                logits.add(readout[step - 1][None])
            start = stop
        attention.close()
        logits.close()
        sink.finish(small)
        if replayed:
            sink.replay(writer)
    assert len(small["token"]) > BLOCK
    cell = open_cube(tmp_path / "cube.zarr").squeeze()
    np.testing.assert_array_equal(cell.attention.values, np.exp(logs))
    np.testing.assert_array_equal(cell.logits.values, readout)
