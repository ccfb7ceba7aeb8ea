"""Every check is green in an honest run, and red under the fault it is there for, planted in the engine."""

import json
from dataclasses import replace

import numpy as np
import pytest

from runs import PROMPTS, grid, run
from tempocube.capture import fastexp, select
from tempocube.capture.engine import capture
from tempocube.capture.model import load
from tempocube.capture.pool import Pool
from tempocube.capture.tap import Tap
from tempocube.capture.wanted import Wanted
from tempocube.dataset.cube import Cube
from tempocube.dataset.schema import CHECKS, DONE, FAIL, FAILED, PASS
from tempocube.dataset.store import Driver
from tempocube.dataset.visibility import existence
from tiny import checkpoint, mx

MODES = ["isolated", "causal", "visible", "single"]
ATTENTION = "scaled_dot_product_attention"
SAME = 1e-5  # between two runs whose packed operations have other shapes


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return load(str(checkpoint(tmp_path_factory.mktemp("llama"), "llama")))


def results(kept):
    """Result of each treatment check, by name."""
    return dict(zip(CHECKS, kept.small["check_result"].tolist(), strict=True))


def red(kept):
    return {name for name, result in results(kept).items() if result == FAIL}


def wide(kept):
    return (kept.small["width"] > 1).any()


def all_red(model, **options):
    """The checks that are red in every cell of a run with wide sets everywhere."""
    kept = run(model, grid(**{"prompts": {"a": PROMPTS[:2]}} | options)).values()
    assert all(wide(each) for each in kept)
    return set.intersection(*map(red, kept))


def masked(monkeypatch, mask):
    """The tap is given other masks than the branches have: mask(branch, rows, window) -> (row, slot)."""
    forward = Tap.forward

    def fed(self, feed, read):
        blocks = []
        for block in feed.blocks:
            see = {window: given.copy() for window, given in block.see.items()}
            for window, given in see.items():
                for place, growth in enumerate(block.growths):
                    keys = slice(growth.rows.stop)
                    own = mask(growth.branch, growth.rows, window)
                    given[place, : growth.count, keys] = own[:, keys]
            blocks.append(replace(block, see=see))
        return forward(self, replace(feed, blocks=tuple(blocks)), read)

    monkeypatch.setattr(Tap, "forward", fed)


def siblings(positions):
    """(node,) Whether a node shares the position of the one before it, and of the one after it."""
    same = positions[1:] == positions[:-1]
    return np.r_[False, same], np.r_[same, False]


# honest runs


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_in_an_honest_run_each_check_is_green_where_it_applies(tmp_path, architecture):
    model = load(str(checkpoint(tmp_path, architecture)))
    for cell, kept in run(model, grid(modes=MODES, prompts={"a": PROMPTS[::2]})).items():
        looks = cell.mode in ("causal", "visible")
        far = architecture == "gemma3" and len(kept.small["width"]) + np.sum(kept.small["slot_step"] < 0) > 8
        applies = {
            "rows_sum": True,
            "isolation": cell.mode in ("isolated", "causal") or far,  # a window hides something in any mode
            "sight": looks,
            "cache": True,
            "positions": architecture != "gpt2",  # which has learned ones
            "distinct_keys": cell.mode != "single",
            "finite": True,
            "width": cell.mode == "single",
        }
        assert wide(kept) == (cell.mode != "single")
        assert {name: result == PASS for name, result in results(kept).items() if name in applies} == applies
        assert not red(kept)


@pytest.mark.parametrize("options", [{"prune": {"threshold": 0.2, "relative": True}}, {"stop_at_eos": True}])
def test_hidden_slots_and_early_ends_are_no_fault(llama, options):
    for kept in run(llama, grid(modes=MODES, max_tokens=6, **options)).values():
        assert not red(kept)


def test_a_run_whose_sets_are_never_wide_has_nothing_to_check_among_siblings(llama):
    for kept in run(llama, grid(modes=MODES, max_width=1)).values():
        none = {name: results(kept)[name] for name in ("isolation", "sight", "distinct_keys")}
        assert set(none.values()).isdisjoint({PASS, FAIL})


def test_clones_have_no_keys_to_tell_apart(llama):
    for kept in run(llama, grid(control="clone", modes=["isolated", "visible"])).values():
        assert wide(kept)
        assert not red(kept)
        assert results(kept)["distinct_keys"] not in (PASS, FAIL)


# planted faults: who sees whom


@pytest.mark.parametrize("mode", ["isolated", "causal"])
def test_a_mask_that_is_ignored_turns_isolation_red(llama, monkeypatch, mode):
    masked(monkeypatch, lambda branch, rows, window: existence(branch.slot_step, rows))
    assert all_red(llama, modes=[mode]) == {"isolation"}


def test_a_window_that_is_ignored_turns_isolation_red(tmp_path, monkeypatch):
    model = load(str(checkpoint(tmp_path, "gemma3")))
    masked(monkeypatch, lambda branch, rows, window: branch.seen(rows))
    assert all_red(model, modes=["visible"], prompts={"a": PROMPTS[2:]}) == {"isolation"}


def test_without_the_mask_isolation_is_red_whoever_shares_the_batch(llama):
    for cell, kept in run(llama, grid(control="no_mask", modes=MODES)).items():
        assert red(kept) == ({"isolation"} if cell.mode in ("isolated", "causal") else set())


@pytest.mark.parametrize("mode", ["visible", "causal"])
def test_siblings_that_are_really_isolated_turn_sight_red(llama, monkeypatch, mode):
    masked(monkeypatch, lambda branch, rows, window: branch.seen(rows, "isolated", window))
    assert "sight" in all_red(llama, modes=[mode])


def test_visible_siblings_that_see_only_those_above_them_are_found(llama, monkeypatch):
    masked(monkeypatch, lambda branch, rows, window: branch.seen(rows, "causal", window))
    assert all_red(llama, modes=["visible"]) == {"cache"}  # its rows are shorter than they should be


@pytest.mark.parametrize("mode", ["isolated", "visible"])
def test_later_tokens_that_see_only_the_last_sibling_turn_cache_red(llama, monkeypatch, mode):
    def last_only(branch, rows, window):
        step = branch.slot_step
        followed = (step >= 0) & np.r_[step[1:] == step[:-1], False]
        return branch.seen(rows, mode, window) & ~(followed & (step[rows, None] != step))

    masked(monkeypatch, last_only)
    assert all_red(llama, modes=[mode]) == {"cache"}


def test_pruned_slots_that_stay_in_sight_turn_isolation_red(llama, monkeypatch):
    def unpruned(branch, rows, window):
        return replace(branch, pruned_at=np.full(branch.slots, -1, np.int32)).seen(rows, "visible", window)

    masked(monkeypatch, unpruned)
    kept = run(llama, grid(modes=["visible"], prune={"threshold": 0.9, "relative": True}))
    pruned = [each for each in kept.values() if (each.small["pruned_at"] >= 0).any()]
    assert pruned
    assert all(red(each) == {"isolation"} for each in pruned)


# planted faults: positions


@pytest.mark.parametrize("whose", ["all", "siblings", "one layer"])
def test_positions_shifted_by_one_turn_positions_red(llama, monkeypatch, whose):
    def offset(pool):
        positions = np.asarray(pool.positions)
        shifted = {
            "all": positions + 1,
            "siblings": positions + siblings(positions)[0],
            "one layer": positions + (pool.layer == 1),
        }
        return mx.array(shifted[whose].astype(np.int32))

    monkeypatch.setattr(Pool, "offset", property(offset))
    assert all_red(llama) == {"positions"}


# planted faults: the cache


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("fault", ["dropped", "overwritten", "zeroed"])
def test_a_cache_that_takes_only_the_last_sibling_turns_cache_red(llama, monkeypatch, fault, layer):
    update = Pool.update_and_fetch

    def last_only(pool, keys, values):
        if layer not in (None, pool.layer):
            return update(pool, keys, values)
        followed = siblings(np.asarray(pool.positions))[1]
        last = [int(np.argmin(followed[node:])) + node for node in range(followed.size)]
        taken = {
            "dropped": [values[mx.array(np.flatnonzero(~followed))] for values in (keys, values)],
            "overwritten": [values[mx.array(last)] for values in (keys, values)],
            "zeroed": [values * mx.array(~followed)[:, None, None, None] for values in (keys, values)],
        }
        update(pool, *taken[fault])
        pool.fed = keys, values
        return keys, values

    monkeypatch.setattr(Pool, "update_and_fetch", last_only)
    assert "cache" in all_red(llama, max_width=2)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_that_the_tap_does_not_get_to_see_turns_cache_red(llama, monkeypatch, layer):
    enter = Tap.__enter__

    def all_but_one(self):
        tap, (module,) = enter(self), self.model.attention_modules
        ours = getattr(module, ATTENTION)

        def attention(queries, keys, values, cache, scale, mask):
            if cache.layer == layer:
                return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
            return ours(queries, keys, values, cache=cache, scale=scale, mask=mask)

        setattr(module, ATTENTION, attention)
        return tap

    monkeypatch.setattr(Tap, "__enter__", all_but_one)
    assert all_red(llama) == {"cache"}


def test_siblings_whose_keys_are_equal_turn_distinct_keys_red(tmp_path):
    model = load(str(checkpoint(tmp_path, "llama")))
    table = model.net.model.embed_tokens.weight
    model.net.model.embed_tokens.weight = mx.broadcast_to(table[:1], table.shape)
    assert all_red(model, threshold=0.03) == {"distinct_keys"}


# planted faults: numbers and widths


def test_rows_that_do_not_add_up_to_one_turn_rows_sum_red(llama, monkeypatch):
    parts = fastexp.log_softmax_parts

    def heavier(score):
        weight, log_weight = parts(score)
        return weight * 1.01, log_weight

    monkeypatch.setattr(fastexp, "log_softmax_parts", heavier)
    assert all_red(llama) == {"rows_sum"}


def test_a_wide_set_in_a_single_cell_turns_width_red(llama, monkeypatch):
    choose = select.choose
    monkeypatch.setattr(select, "choose", lambda *args, single, **named: choose(*args, single=False, **named))
    assert all_red(llama, modes=["single"]) == {"width"}


def broken_token(model, token):
    """Plant a NaN in the embedding of one token."""
    table = np.array(model.net.model.embed_tokens.weight)
    table[token, 0] = np.nan
    model.net.model.embed_tokens.weight = mx.array(table)


def without_first_token(folder):
    """A checkpoint whose tokenizer puts no token before a text."""
    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(words | {"post_processor": None}), "utf-8")
    return folder


@pytest.mark.parametrize("place", [0, -1], ids=["first token", "last token"])
def test_a_number_that_is_not_one_turns_finite_red_where_it_is_met_and_nowhere_else(tmp_path, place):
    model = load(str(without_first_token(checkpoint(tmp_path, "llama"))))
    asked = grid(prompts={"a": ["that mat", *PROMPTS[:2], "other cat came on"]}, modes=MODES)
    honest = run(model, asked)
    token = model.prompt_tokens(asked.cells()[0].prompt if place == 0 else PROMPTS[1])[place]
    broken_token(model, token)
    found = run(model, asked)
    met = {cell for cell, kept in found.items() if token in kept.small["token"]}
    assert 0 < len(met) < len(found)
    assert all(red(found[cell]) == {"finite"} for cell in met)
    for cell in found.keys() - met:
        assert not red(found[cell])
        for name, values in found[cell].data.items():
            np.testing.assert_allclose(values, honest[cell].data[name], rtol=SAME, atol=SAME)


# from the checks to the cube


def driven(where, model, asked):
    """What a cube says of the only cell: status, error and the checks that are red."""
    with Driver(where, asked, model.facts, 32) as drive:
        for task in drive.todo():
            wanted = Wanted.of(asked.capture, asked.storage, model.facts)
            capture(model, [task.cell], [task.writer()], wanted)
    cube = Cube.open(where)
    (index,) = cube.cells()
    result = cube.read("check_result")[index]
    failed = {name for name, each in zip(CHECKS, result, strict=True) if each == FAIL}
    return cube.read("status")[index], str(cube.read("error")[index]), failed


def test_a_red_check_fails_its_cell_and_says_which(llama, monkeypatch, tmp_path):
    asked = grid(prompts={"a": PROMPTS[:1]}, modes=["isolated"])
    assert driven(tmp_path / "honest.zarr", llama, asked) == (DONE, "", set())
    masked(monkeypatch, lambda branch, rows, window: existence(branch.slot_step, rows))
    status, error, failed = driven(tmp_path / "ignored.zarr", llama, asked)
    assert (status, failed) == (FAILED, {"isolation"})
    assert "isolation" in error


def test_under_no_mask_the_cell_is_done_and_the_check_is_red(llama, tmp_path):
    asked = grid(prompts={"a": PROMPTS[:1]}, modes=["isolated"], control="no_mask")
    assert driven(tmp_path / "cube.zarr", llama, asked) == (DONE, "", {"isolation"})


def test_a_cell_that_breaks_before_its_first_set_is_stored_as_failed(tmp_path):
    model = load(str(checkpoint(tmp_path / "model", "llama")))
    broken_token(model, model.prompt_tokens(PROMPTS[0])[0])
    asked = grid(prompts={"a": PROMPTS[:1]}, modes=["isolated"])
    assert driven(tmp_path / "cube.zarr", model, asked)[::2] == (FAILED, {"finite"})
