import pytest

from cubes import PROMPT_TOKENS, facts, fill, grid
from tempocube.dataset.estimate import estimate
from tempocube.dataset.grid import Grid


def test_raw_bytes_are_those_of_the_arrays():
    asked, model = grid(3, max_tokens=7, threshold=0.5, capture={"keys_values": True}), facts()
    cells, slots = 12, PROMPT_TOKENS + 7 * 2
    weights = estimate(asked, model, PROMPT_TOKENS)
    assert weights["log_attention"].raw == cells * 4 * 2 * 3 * slots * slots
    assert weights["logits"].raw == cells * 4 * 7 * 50
    assert weights["cached_key"].raw == cells * 4 * 2 * 1 * slots * 4
    fewer = estimate(asked, model, PROMPT_TOKENS, mean_width=1)
    assert fewer["log_attention"].raw == cells * 4 * 2 * 3 * (PROMPT_TOKENS + 7) ** 2


def test_layers_and_heads_that_are_not_asked_for_weigh_nothing():
    some = grid(capture={"attention": {"layers": [1], "heads": [0, 2]}, "internals": [0]})
    weights, whole = estimate(some, facts(), 5), estimate(grid(capture={"internals": [0, 1]}), facts(), 5)
    assert weights["log_attention"].raw * 3 == whole["log_attention"].raw
    assert weights["mlp_up"].raw * 2 == whole["mlp_up"].raw
    assert "log_attention" not in estimate(grid(capture={"attention": False}), facts(), 5)


def test_the_long_profile_is_30_gb_raw_and_under_6_and_a_half_stored():
    shape = facts(layers=28, heads=24, kv_heads=8, head_dim=128, hidden=3072, neurons=8192, vocab=128256)
    attention = estimate(Grid.load("long"), shape, prompt_tokens=8)["log_attention"]
    assert attention.raw == pytest.approx(30e9, rel=0.01)
    assert attention.stored < 6.5e9


@pytest.mark.parametrize("storage", ["log16", "float32"])
def test_the_estimate_is_near_what_is_stored(tmp_path, storage):
    asked = grid(2, max_tokens=60, storage={"attention": storage, "logits": storage})
    model = facts(layers=8, heads=8, vocab=2000)
    cube = fill(tmp_path / "a.zarr", asked, model)
    width = float(cube.read("width").mean())
    for name, weight in estimate(asked, model, PROMPT_TOKENS, width).items():
        if name in cube.data:
            stored = sum(each.size for each in cube.place.list(name) if "/c." in each.key)
            assert weight.stored == pytest.approx(stored, rel=0.35)
