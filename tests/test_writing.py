import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cubes import PROMPT_TOKENS, experiment, facts, fill, grid
from tempocube.dataset.encoding import decode, encode, row_axis
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import BLOCK
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.dataset.writing import Receipt


@pytest.fixture
def writer(tmp_path):
    """A writer of the one cell of a cube with 200 slots."""
    asked = grid(1, seeds=[1], modes=["visible"], max_slots=200, max_tokens=60)
    with Driver(tmp_path / "a.zarr", asked, facts(), PROMPT_TOKENS) as run:
        yield run.todo()[0].writer()


def block(rows, keys=200):
    return np.zeros((2, 3, rows, keys), np.float32)


@given(st.integers(0, 250), st.integers(0, 150))
def test_a_write_that_does_not_line_up_with_shards_is_refused(writer, start, rows):
    writer._rows.clear()
    assume(not (start == 0 and 0 < rows <= BLOCK))
    with pytest.raises(ValueError, match=r"multiple of 64|next row is|1 to 64 rows|do not fit"):
        writer.write("log_attention", block(rows), start)


def test_after_a_short_block_nothing_may_follow_and_blocks_come_in_order(writer):
    with pytest.raises(ValueError, match="the next row is 0, got 64"):
        writer.write("log_attention", block(64), 64)
    writer.write("log_attention", block(64), 0)
    with pytest.raises(ValueError, match="the next row is 64, got 0"):
        writer.write("log_attention", block(64), 0)
    writer.write("log_attention", block(10), 64)
    with pytest.raises(ValueError, match="multiple of 64, got 74"):
        writer.write("log_attention", block(10), 74)
    with pytest.raises(ValueError, match="after a short block nothing may follow"):
        writer.write("log_attention", block(10), 128)


@pytest.mark.parametrize("shape", [(1, 3, 64, 200), (2, 3, 64, 201), (2, 3, 64), (2, 2, 64, 200)])
def test_a_block_of_another_shape_is_refused(writer, shape):
    with pytest.raises(ValueError, match="does not fit"):
        writer.write("log_attention", np.zeros(shape, np.float32), 0)


def test_a_cell_without_all_its_rows_cannot_be_finished(writer):
    small, logs, _ = experiment(writer.cell, facts())
    with pytest.raises(ValueError, match=r"log_attention has 0 of \d+ rows"):
        writer.finish(small)
    with pytest.raises(ValueError, match="without width"):
        writer.finish({name: value for name, value in small.items() if name != "width"})
    with pytest.raises(ValueError, match="no such variable of the index: weight"):
        writer.finish(small | {"weight": 1})
    assert logs.shape[-1] > BLOCK


options = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 70),
        "storage": st.fixed_dictionaries(
            {name: st.sampled_from(["log16", "float32"]) for name in ("attention", "logits")}
        ),
        "capture": st.fixed_dictionaries(
            {"logits": st.booleans(), "residual": st.booleans(), "keys_values": st.booleans()},
            optional={
                "attention": st.fixed_dictionaries(
                    {"layers": st.sampled_from(["all", [0], [1, 2]]), "heads": st.sampled_from(["all", [1]])}
                ),
                "internals": st.sampled_from([[], [0], [2]]),
            },
        ),
    }
)


@settings(max_examples=12)
@given(options, st.integers(1, 4))
def test_what_is_read_equals_what_was_written(tmp_path_factory, asked, heads):
    where = tmp_path_factory.mktemp("cube") / "a.zarr"
    model = facts(layers=3, heads=heads)
    asked["capture"] = {**asked["capture"]}
    if heads == 1 and "attention" in asked["capture"]:
        asked["capture"]["attention"] = {**asked["capture"]["attention"], "heads": "all"}
    made = grid(1, seeds=[7], modes=["isolated", "visible"], **asked)
    cube = fill(where, made, model)
    assert verify(where).ok
    read = open_cube(where)
    for mode, cell in enumerate(made.cells()):
        small, logs, readout = experiment(cell, model)
        slots, here = logs.shape[-1], {"prompt": 0, "seed": 0, "mode": mode}
        got = read.isel(here)
        assert int(got.length) == slots
        assert got.text.item() == small["text"]
        for name in ("token", "logical", "slot_step"):
            assert got[name].values[:slots].tolist() == small[name].tolist()
        if "log_attention" in cube.data or "attention" in cube.data:
            check_attention(cube, got, logs)
        if "logits" in cube.data:
            want = readout if made.storage.logits == "float32" else through(readout, "logits")
            np.testing.assert_array_equal(got.logits.values[: len(readout)], want)


def through(values, codec):
    return decode(encode(values, codec), codec, logs=True)


def check_attention(cube, got, logs):
    """Layers and heads that were asked for hold what was written, the others nothing."""
    stored = next(v for v in cube.data.values() if v.name.endswith("attention") and v.dims[-1] == "key")
    captured = {
        dim: cube.captured(stored).get(dim, list(range(cube.sizes[dim]))) for dim in ("layer", "head")
    }
    slots = logs.shape[-1]
    values = got.log_attention.values[..., :slots, :slots]
    part = np.ix_(captured["layer"], captured["head"])
    want = through(logs, "attention") if stored.codec else np.exp(logs)
    have = values if stored.codec else got.attention.values[..., :slots, :slots]
    np.testing.assert_array_equal(have[part], want[part])
    if stored.codec:
        weights = got.attention.values[..., :slots, :slots][part]
        assert ((weights == 0) == np.isneginf(logs[part]))[~np.isnan(logs[part])].all()
    rest = np.ones(have.shape[:2], bool)
    rest[part] = False
    assert np.isnan(values[rest]).all()


def test_a_longer_try_that_was_killed_leaves_no_row_behind(tmp_path):
    """Rows and shards of the first try must not show through in the shorter second one."""
    asked = grid(1, seeds=[1], modes=["visible"], max_tokens=90)
    model = facts()
    with Driver(tmp_path / "a.zarr", asked, model, PROMPT_TOKENS) as run:
        task = run.todo()[0]
        small, logs, readout = experiment(task.cell, model)
        first = task.writer()
        for start in range(0, logs.shape[-1] - BLOCK, BLOCK):
            first.write("log_attention", logs[:, :, start : start + BLOCK], start)
        assert len(first._shards) > 1
        slots = PROMPT_TOKENS + int(small["width"][:10].sum())
        second = task.writer()
        second.write("log_attention", logs[:, :, :slots, :slots], 0)
        second.write("logits", readout[:10], 0)
        second.finish(
            {
                k: v[:10] if k == "width" else v[:slots] if isinstance(v, np.ndarray) else v
                for k, v in small.items()
            }
        )
    assert verify(tmp_path / "a.zarr").ok
    stored = open_cube(tmp_path / "a.zarr", trim=False).attention
    assert np.isnan(stored.values[..., slots:, :]).all()
    shards = [s.key for s in run.place.list("log_attention") if "/c." in s.key]
    assert shards == ["log_attention/c.0.0.0.0.0.0.0"]


def test_a_receipt_survives_its_bytes_and_anything_else_is_no_receipt(writer):
    receipt = Receipt((0, 1), "abc", {"token": np.arange(3, dtype=np.int32), "text": "é"}, {"a/c/0": (5, 7)})
    again = Receipt.from_bytes(receipt.to_bytes())
    assert (again.index, again.lease, again.shards) == (receipt.index, "abc", receipt.shards)
    assert again.values["text"] == "é"
    assert again.values["token"].tolist() == [0, 1, 2]
    for torn in (b"", receipt.to_bytes()[:40], b"\xff" * 100):
        with pytest.raises(ValueError, match="not a receipt"):
            Receipt.from_bytes(torn)


def test_a_failed_cell_says_why_and_is_tried_again_three_times_in_all(tmp_path):
    asked = grid(1, seeds=[1], modes=["visible"])
    for attempt in (1, 2, 3):
        with Driver(tmp_path / "a.zarr", asked, facts(), PROMPT_TOKENS) as run:
            (task,) = run.todo()
            assert task.attempt == attempt
            task.writer().fail(f"too hot, try {attempt}")
    with Driver(tmp_path / "a.zarr", asked, facts(), PROMPT_TOKENS) as run:
        assert run.todo() == []
    verdict = verify(tmp_path / "a.zarr")
    assert verdict.counts["failed"] == 1
    assert "too hot, try 3" in str(verdict.problems[0])


def test_rows_asked_of_some_queries_only_leave_the_others_empty(tmp_path):
    asked = grid(
        1, seeds=[1], modes=["visible"], max_tokens=60, capture={"attention": {"queries": "generated"}}
    )
    model = facts()
    with Driver(tmp_path / "a.zarr", asked, model, PROMPT_TOKENS) as run:
        task = run.todo()[0]
        small, logs, readout = experiment(task.cell, model)
        logs[:, :, :PROMPT_TOKENS] = np.nan
        writer = task.writer()
        for start in range(0, logs.shape[-1], BLOCK):
            writer.write("log_attention", logs[:, :, start : start + BLOCK], start)
        writer.write("logits", readout, 0)
        writer.finish(small)
    assert verify(tmp_path / "a.zarr").ok
    assert np.isnan(open_cube(tmp_path / "a.zarr").attention.values[..., :PROMPT_TOKENS, :]).all()


def test_the_row_axis_is_the_one_written_block_by_block(writer):
    assert {v.name: v.dims[row_axis(v)] for v in writer.cube.data.values()} == {
        "log_attention": "query",
        "logits": "step",
    }
