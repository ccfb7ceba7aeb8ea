"""What is kept of a run: parts of it, projections, internals, and the small arrays that follow from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs import EVERYTHING, Results, grid, members, run, sets_of, tiny, worked
from tempocube.capture.engine import capture
from tempocube.capture.model import Model
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.schema import INTERNALS
from tempocube.dataset.visibility import asked_rows

import mlx.core as mx  # isort: skip  (after the BLAS)

MODES = ["isolated", "visible", "single"]
GATED = ("mlp_gate", "mlp_up", "mlp_act")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def whole(model: Model) -> Results:
    """Everything there is to keep."""
    return run(model, grid(modes=MODES, capture=EVERYTHING | {"internals": [0, 1, 2]}))


def kept_of(model: Model, **options: Any) -> list[Kept]:
    return list(run(model, grid(modes=MODES, capture=options)).values())


# --- parts of it


def test_chosen_layers_and_heads_are_those_of_the_whole(model: Model, whole: Results) -> None:
    parts = kept_of(model, attention={"layers": [0, 2], "heads": [1, 3]})
    for part, full in zip(parts, whole.values(), strict=True):
        np.testing.assert_array_equal(part.data["attention"], full.data["attention"][np.ix_([0, 2], [1, 3])])


@pytest.mark.parametrize("queries", ["generated", "last"])
def test_rows_that_were_not_asked_for_are_not_there(queries: str, model: Model, whole: Results) -> None:
    parts = kept_of(model, attention={"queries": queries})
    for part, full in zip(parts, whole.values(), strict=True):
        got, everything = part.data["attention"], full.data["attention"]
        asked = asked_rows(queries, full.small["slot_step"])
        assert 0 < asked.sum() < asked.size
        assert np.isnan(got[:, :, ~asked]).all()
        np.testing.assert_array_equal(got[:, :, asked], everything[:, :, asked])


def test_the_last_rows_are_those_of_the_best_tokens(model: Model) -> None:
    for kept in kept_of(model, attention={"queries": "last"}):
        there = ~np.isnan(kept.data["attention"]).all(axis=(0, 1, 3))
        best = [members(kept, -1)[-1]] + [members(kept, step)[0] for step in range(len(kept.small["width"]))]
        assert np.flatnonzero(there).tolist() == best


def test_chosen_layers_and_neurons_are_those_of_the_whole(model: Model, whole: Results) -> None:
    parts = kept_of(model, internals=[1], neurons=[0, 5, 95])
    for part, full in zip(parts, whole.values(), strict=True):
        for name in INTERNALS:
            expected = full.data[name][[1]]
            expected = expected[..., [0, 5, 95]] if name in GATED else expected
            np.testing.assert_array_equal(part.data[name], expected)


def test_what_was_not_asked_for_is_not_kept(model: Model) -> None:
    assert all(kept.data.keys() == {"logits"} for kept in kept_of(model, attention=False))
    assert all(not kept.data for kept in kept_of(model, attention=False, logits=False))


def test_what_is_kept_changes_nothing_of_the_rest(model: Model, whole: Results) -> None:
    for part, full in zip(kept_of(model), whole.values(), strict=True):
        for name in ("attention", "logits"):
            np.testing.assert_allclose(part.data[name], full.data[name], atol=1e-5)
        assert sets_of(part) == sets_of(full)


# --- internals


def test_a_layer_gets_bit_for_bit_what_the_one_before_put_out(model: Model, whole: Results) -> None:
    """Each residual[l] is both; the stream after attention plus the MLP's output must come to it exactly."""
    for kept in whole.values():
        data = kept.data
        assert data["residual"].shape[0] == model.facts.layers + 1
        np.testing.assert_array_equal(data["after_attention"] + data["mlp_down"], data["residual"][1:])


def test_the_last_stream_makes_the_logits(model: Model, whole: Results) -> None:
    for kept in whole.values():
        last = members(kept, -1)[-1]
        stream = mx.array(kept.data["residual"][-1, last])
        logits = np.array(model.net.lm_head(model.net.model.norm(stream)), np.float64)
        np.testing.assert_allclose(logits - np.logaddexp.reduce(logits), kept.data["logits"][0], atol=1e-5)


def test_gate_up_and_down_projection_make_what_the_mlp_gives(model: Model, whole: Results) -> None:
    for kept in whole.values():
        gate, up, act, down = (np.float64(kept.data[f"mlp_{name}"]) for name in ("gate", "up", "act", "down"))
        np.testing.assert_allclose(gate / (1 + np.exp(-gate)) * up, act, atol=1e-5 * np.abs(act).max())
        for layer, module in enumerate(model.net.layers):
            weight = np.array(module.mlp.down_proj.weight, np.float64)
            np.testing.assert_allclose(act[layer] @ weight.T, down[layer], atol=1e-5 * np.abs(down).max())


def test_values_are_cached_as_they_are_and_keys_are_turned(whole: Results) -> None:
    for kept in whole.values():
        data = kept.data
        np.testing.assert_array_equal(data["v"], data["cached_value"].swapaxes(1, 2))
        keys = data["cached_key"].swapaxes(1, 2)
        lengths = [np.linalg.norm(part, axis=-1) for part in (data["k"], keys)]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
        np.testing.assert_array_equal(data["k"][:, 0], keys[:, 0])  # position 0 is not turned
        assert np.abs(data["k"][:, 1:] - keys[:, 1:]).max() > 0.1


# --- projections


def test_a_projection_is_the_stream_along_a_vector(model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    same, by_layer = rng.normal(size=64), rng.normal(size=(4, 64)).astype(np.float32)
    np.save(tmp_path / "same.npy", same)
    np.save(tmp_path / "by_layer.npy", by_layer)
    files = {"b": str(tmp_path / "by_layer.npy"), "a": str(tmp_path / "same.npy")}
    for kept in kept_of(model, residual=True, project=files):
        stream = np.float64(kept.data["residual"])
        vectors = np.stack([np.broadcast_to(same, (4, 64)), by_layer], axis=1)
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        expected = np.einsum("lsh,lth->lst", stream, vectors)
        np.testing.assert_allclose(
            kept.data["projection"], expected, atol=1e-5 * np.abs(stream).max(), strict=False
        )


def test_a_planted_direction_is_recovered(tmp_path: Path) -> None:
    """An MLP's bias adds the same vector to the stream of every token: its projection rises by its length."""
    direction = np.random.default_rng(2).normal(size=64).astype(np.float32)
    direction *= 3 / np.linalg.norm(direction)
    np.save(tmp_path / "trait.npy", direction)
    model = tiny(tmp_path, "llama", mlp_bias=True)
    asked = grid(
        max_tokens=1, modes=["isolated"], capture={"project": {"trait": str(tmp_path / "trait.npy")}}
    )
    before = list(run(model, asked).values())
    bias = model.net.layers[1].mlp.down_proj.bias
    model.net.layers[1].mlp.down_proj.bias = bias + mx.array(direction)
    for old, new in zip(before, run(model, asked).values(), strict=True):
        prompt = members(old, -1)
        rise = new.data["projection"][:, prompt] - old.data["projection"][:, prompt]
        np.testing.assert_allclose(rise[:2], 0, atol=1e-5)
        np.testing.assert_allclose(rise[2], 3, atol=1e-4)


def test_a_projection_does_not_need_the_stream_to_be_kept(model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(64))
    project = {"one": str(tmp_path / "one.npy")}
    with_stream = kept_of(model, residual=True, project=project)
    for kept, other in zip(kept_of(model, project=project), with_stream, strict=True):
        assert "residual" not in kept.data
        np.testing.assert_array_equal(kept.data["projection"], other.data["projection"])


# --- small arrays


def test_entropy_and_the_best_tokens_are_what_the_readouts_say(whole: Results) -> None:
    for kept in whole.values():
        small, said = kept.small, np.float64(kept.data["logits"])
        np.testing.assert_allclose(np.exp(said).sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(small["entropy"], -(np.exp(said) * said).sum(1), atol=1e-5)
        order = np.argsort(-said, axis=1, kind="stable")[:, :16]
        assert small["top_token"].tolist() == order.tolist()
        np.testing.assert_allclose(small["top_logprob"], np.take_along_axis(said, order, 1), atol=1e-6)
        for step, tokens in enumerate(sets_of(kept)):
            chances = np.exp(said[step, tokens])
            np.testing.assert_allclose(small["probability"][members(kept, step)], chances, rtol=1e-5)
            assert tokens == order[step, : len(tokens)].tolist()  # at temperature 0
        assert np.isnan(small["probability"][members(kept, -1)]).all()


def test_positions_are_shared_in_a_set_and_rise_by_one(model: Model, whole: Results) -> None:
    for cell, kept in whole.items():
        prompt = len(model.prompt_tokens(cell.prompt))
        widths = kept.small["width"]
        positions = [*range(prompt), *np.repeat(range(prompt, prompt + len(widths)), widths)]
        assert kept.small["logical"].tolist() == positions
        assert kept.small["token"][:prompt].tolist() == model.prompt_tokens(cell.prompt)


def test_the_text_shows_every_set(model: Model, whole: Results) -> None:
    wide = 0
    for cell, kept in whole.items():
        text = kept.small["text"]
        assert text.startswith(cell.prompt)
        words = [[model.text_of(token) for token in each] for each in sets_of(kept)]
        shown = [each[0] if len(each) == 1 else "[" + "|".join(each) + "]" for each in words]
        assert text == cell.prompt + "".join(shown)
        wide += sum(len(each) > 1 for each in words)
    assert wide > 10


def test_seconds_add_up_to_those_of_the_batch_and_the_worker_is_named(model: Model) -> None:
    asked = grid()
    results, work = worked(model, asked)
    seconds = [kept.small["seconds"] for kept in results.values()]
    assert min(seconds) > 0
    assert 0.5 * work.seconds < sum(seconds) <= work.seconds
    kept = Kept()
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    capture(model, asked.cells()[:1], [kept], wanted, worker="w1")
    assert kept.small["worker"] == "w1"
