"""The self-test of a loaded model: honest ones pass it by far, and each planted fault is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs import tiny
from tempocube.capture import selftest
from tempocube.capture.forest import Branch
from tempocube.capture.model import Model
from tempocube.capture.pool import Pool
from tempocube.capture.tap import ATTENTION, Tap
from tempocube.dataset.visibility import existence
from tempocube.errors import BadInput
from tiny import ARCHITECTURES, checkpoint, mx

ROUNDING = 1e-3  # the faults below are worth 0.1 to 10
COMPARED = {
    "our attention and the model's own",
    "packed and alone",
    "step by step and at once",
    "two orders of siblings",
    "isolated siblings and each of them alone",
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny(tmp_path_factory.mktemp("llama"))


def refusal(model: Model) -> str:
    """The one line with which a model fails its self-test."""
    with pytest.raises(BadInput) as caught:
        selftest.check(model)
    message = str(caught.value)
    assert message.startswith("llama: llama cannot be observed: ")
    assert "\n" not in message
    return message


def seen_as(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Siblings see each other as in another mode than the one asked for."""
    seen = Branch.seen

    def otherwise(branch: Branch, rows: slice, _: str | None = None, window: int | None = None) -> Any:
        return seen(branch, rows, mode, window)

    monkeypatch.setattr(Branch, "seen", otherwise)


# --- honest models


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_that_is_said_to_work_passes_by_far(architecture: str, tmp_path: Path) -> None:
    found = selftest.check(tiny(tmp_path, architecture))
    assert found.keys() == COMPARED
    assert max(found.values()) < ROUNDING


@pytest.mark.parametrize("positions", [4, 5, 7, 16])
@pytest.mark.parametrize(
    ("architecture", "key"), [("llama", "max_position_embeddings"), ("gpt2", "n_positions")]
)
def test_a_short_context_is_no_reason_to_refuse_a_model(
    architecture: str, key: str, positions: int, tmp_path: Path
) -> None:
    model = tiny(tmp_path, architecture, **{key: positions})
    assert model.context == positions
    assert max(selftest.check(model).values()) < ROUNDING


def test_no_more_positions_are_fed_than_a_model_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, last, forward = tiny(tmp_path, "gpt2", n_positions=6), [], Tap.forward

    def fed(tap: Tap, feed: Any, read: Any) -> Any:
        last.append(int(feed.logical.max()))
        return forward(tap, feed, read)

    monkeypatch.setattr(Tap, "forward", fed)
    selftest.check(model)
    assert 1 < max(last) < 6


def test_loading_gives_a_model_that_has_passed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path / "mine", "qwen2"))
    assert selftest.load(folder).name == "mine"
    seen_as(monkeypatch, "visible")
    with pytest.raises(
        BadInput, match=r"^mine: qwen2 cannot be observed: log-probabilities differ "
    ) as error:
        selftest.load(folder)
    assert "\n" not in str(error.value)


# --- planted faults


def test_a_mask_that_is_ignored_is_found(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Branch, "seen", lambda branch, rows, mode=None, window=None: existence(branch.slot_step, rows)
    )
    assert "isolated siblings and each of them alone by " in refusal(llama)


def test_siblings_that_see_those_above_them_are_found(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen_as(monkeypatch, "causal")
    message = refusal(llama)
    assert "two orders of siblings by " in message
    assert "isolated siblings and each of them alone by " in message


def test_siblings_that_all_see_each_other_are_found(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two orders of them make no difference, for all see the same."""
    seen_as(monkeypatch, "visible")
    message = refusal(llama)
    assert "two orders of siblings" not in message
    assert "isolated siblings and each of them alone by " in message


def test_a_window_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen, model = Branch.seen, tiny(tmp_path, "gemma3")
    monkeypatch.setattr(Branch, "seen", lambda branch, rows, mode=None, window=None: seen(branch, rows, mode))
    with pytest.raises(BadInput, match="our attention and the model's own by "):
        selftest.check(model)


def test_positions_that_are_doubled_are_found(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "offset", property(lambda pool: pool.positions * 2))
    assert "our attention and the model's own by " in refusal(llama)


def test_siblings_that_do_not_share_a_position_are_found(
    llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_after_the_other(pool: Pool) -> mx.array:
        positions = np.asarray(pool.positions)
        shared = np.r_[False, positions[1:] == positions[:-1]]
        return mx.array((positions + np.cumsum(shared)).astype(np.int32))

    monkeypatch.setattr(Pool, "offset", property(one_after_the_other))
    assert "isolated siblings and each of them alone by " in refusal(llama)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_that_is_not_tapped_is_found(
    layer: int, llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = Tap.__enter__

    def all_but_one(self: Tap) -> Tap:
        tap, (module,) = enter(self), self.model.attention_modules
        ours = getattr(module, ATTENTION)

        def attention(queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any) -> Any:
            if cache.layer == layer:
                return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
            return ours(queries, keys, values, cache=cache, scale=scale, mask=mask)

        setattr(module, ATTENTION, attention)
        return tap

    monkeypatch.setattr(Tap, "__enter__", all_but_one)
    assert "does not take every token into the cache and the attention of every layer" in refusal(llama)


def test_a_pool_that_keeps_only_the_last_sibling_is_found(
    llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Pool.update_and_fetch

    def last_only(pool: Pool, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        positions = np.asarray(pool.positions)
        kept = mx.array(np.flatnonzero(np.r_[positions[1:] != positions[:-1], True]))
        update(pool, keys[kept], values[kept])
        pool.fed = keys, values
        return keys, values

    monkeypatch.setattr(Pool, "update_and_fetch", last_only)
    assert "does not take every token into the cache" in refusal(llama)
