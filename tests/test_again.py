"""A second capture of an experiment: a planted change is found with its size, and another path is refused."""

import numpy as np
import numpy.typing as npt
import pytest

from tempocube.capture.again import Difference, difference
from tempocube.capture.rows import Kept
from tempocube.dataset.schema import CHECKS

STEPS, VOCAB, SLOTS = 3, 7, 5
Arrays = dict[str, npt.NDArray[np.float32]]


def arrays(seed: int = 0) -> Arrays:
    """Attention (layer, head, query, key), NaN where there was no key, and logits (step, vocab)."""
    rng = np.random.default_rng(seed)
    weights = np.where(np.tri(SLOTS, dtype=bool), rng.uniform(0.1, 1, (2, 3, SLOTS, SLOTS)), np.nan)
    weights /= np.nansum(weights, axis=-1, keepdims=True)
    scores = rng.normal(size=(STEPS, VOCAB))
    logits = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return {"attention": weights.astype(np.float32), "logits": logits.astype(np.float32)}


def kept(data: Arrays, **small: list[int]) -> Kept:
    """An experiment of two prompt slots and three sets of one."""
    found = Kept()
    for name, values in data.items():
        found.write(name, values, 0)
    path = {"token": [4, 2, 6, 1, 3], "slot_step": [-1, -1, 0, 1, 2], "pruned_at": [-1] * SLOTS}
    found.finish({name: np.array(values) for name, values in (path | small).items()})
    return found


def test_two_equal_captures_do_not_differ() -> None:
    assert difference(kept(arrays()), kept(arrays())) == Difference(0.0, 0.0, 0.0)


def test_a_change_of_one_weight_is_found_with_its_size() -> None:
    data = arrays()
    data["attention"][1, 2, 3, 0] += 1e-3
    found = difference(kept(arrays()), kept(data))
    assert found.attention == pytest.approx(1e-3, rel=1e-3)
    assert (found.logprob, found.kl) == (0, 0)


def test_logarithms_of_weights_are_compared_as_weights() -> None:
    one, other = arrays(), arrays()
    other["attention"][0, 1, 4, 2] -= 1e-3
    logs = [{"log_attention": np.log(data["attention"]), "logits": data["logits"]} for data in (one, other)]
    assert difference(kept(logs[0]), kept(logs[1])).attention == pytest.approx(1e-3, rel=1e-3)
    assert difference(kept(logs[0]), kept(other)).attention == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_change_of_one_log_probability_is_found_with_its_size(sign: int) -> None:
    data = arrays()
    data["logits"][1, 4] += sign * 1e-3
    found = difference(kept(arrays()), kept(data))
    assert found.logprob == pytest.approx(1e-3, rel=1e-3)
    assert found.attention == 0


def test_the_divergence_is_that_of_the_readout_that_differs_most() -> None:
    one, other = arrays(), arrays()
    for step, size in ((0, 0.01), (2, 0.3)):
        scores = other["logits"][step] + size * np.arange(VOCAB, dtype=np.float32)
        other["logits"][step] = scores - np.log(np.exp(scores).sum())
    p, q = (np.exp(data["logits"][2].astype(float)) for data in (one, other))
    expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    assert difference(kept(one), kept(other)).kl == pytest.approx(expected, rel=1e-5)
    assert expected > 0.05


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("token", [4, 2, 6, 1, 5]),
        ("token", [4, 2, 6, 1]),
        ("slot_step", [-1, -1, 0, 1, 1]),
        ("pruned_at", [-1, -1, 2, -1, -1]),
    ],
)
def test_a_capture_along_another_path_is_refused(name: str, values: list[int]) -> None:
    with pytest.raises(ValueError, match=f"the second capture took another path: {name} differs"):
        difference(kept(arrays()), kept(arrays(), **{name: values}))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("variable", "of"), [("attention", "attention"), ("logits", "logprob")])
def test_a_value_that_only_one_capture_has_is_infinitely_far(variable: str, of: str, swapped: bool) -> None:
    data = arrays()
    data[variable][..., 2, 0] = np.nan
    pair = [kept(arrays()), kept(data)]
    found = difference(*pair[::-1] if swapped else pair)
    assert getattr(found, of) == np.inf


@pytest.mark.parametrize("lacking", ["first", "second", "both"])
@pytest.mark.parametrize(
    ("variable", "unknown", "known"),
    [("attention", ("attention",), ("logprob", "kl")), ("logits", ("logprob", "kl"), ("attention",))],
)
def test_what_was_not_captured_is_not_a_number(
    variable: str, unknown: tuple[str, ...], known: tuple[str, ...], lacking: str
) -> None:
    pair = [arrays(), arrays()]
    for number, which in enumerate(("first", "second")):
        if lacking in (which, "both"):
            del pair[number][variable]
    found = difference(kept(pair[0]), kept(pair[1]))
    assert all(np.isnan(getattr(found, name)) for name in unknown)
    assert all(getattr(found, name) == 0 for name in known)


@pytest.mark.parametrize("kind", ["cross", "repeat"])
def test_differences_fill_their_own_places_and_nothing_else(kind: str) -> None:
    before = np.arange(len(CHECKS)) / 10
    after = Difference(attention=11.0, logprob=12.0, kl=13.0).values(kind, before)
    mine = {f"{kind}_attention": 11.0, f"{kind}_logprob": 12.0, f"{kind}_kl": 13.0}
    assert after.dtype == np.float64
    assert dict(zip(CHECKS, after, strict=True)) == dict(zip(CHECKS, before, strict=True)) | mine
    np.testing.assert_array_equal(before, np.arange(len(CHECKS)) / 10)
