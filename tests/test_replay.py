"""Replay: modes forced along one mode's sets, so that visibility is all they differ in."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs import Results, agrees, grid, members, pick, run, sets_of, tiny, weights
from tempocube.capture.engine import capture
from tempocube.capture.experiment import Track
from tempocube.capture.model import Model
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.cell import Cell
from tempocube.dataset.digest import path_digest
from tempocube.dataset.grid import Grid
from tempocube.dataset.schema import FAIL
from tempocube.errors import BadInput

MODES = ["visible", "isolated", "causal", "single"]
SAME = ("token", "slot_step", "logical", "pruned_at", "width", "capped", "threshold_used")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with noise": {"temperature": 0.7, "seeds": [1, 2]},
    "pruned": {"prune": {"threshold": 0.04}},
    "ending early": {"stop_at_eos": True, "max_tokens": 8, "temperature": 0.7, "seeds": [1, 2]},
    "short of room": {"max_slots": 26, "max_tokens": 8},
    "all of it": {"prune": {"threshold": 0.05}, "stop_at_eos": True, "temperature": 0.7, "max_slots": 30}
    | {"max_tokens": 8, "max_width": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return tiny(folder, eos_token_id=list(range(0, 320, 3)))


def leaders(results: Results) -> dict[Cell, Kept]:
    """The leader of every follower."""
    return {cell: results[cell.leader] for cell in results if cell.leader}


def same_path(one: Kept, other: Kept) -> None:
    for name in SAME:
        np.testing.assert_array_equal(one.small[name], other.small[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_followers_go_along_their_leader(name: str, folder: Path, model: Model) -> None:
    results = run(model, grid(modes=MODES, replay="isolated", **OPTIONS[name]))
    assert len(leaders(results)) == len(results) // 2
    for cell, leader in leaders(results).items():
        same_path(results[cell], leader)
        assert FAIL not in results[cell].small["check_result"]
    if "prune" in OPTIONS[name]:
        assert sum(int((kept.small["pruned_at"] >= 0).sum()) for kept in results.values()) > 2
    if "max_tokens" in OPTIONS[name]:
        assert any(len(kept.small["width"]) < 8 for kept in results.values())
    agrees(folder / "llama", results)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_leader_is_not_changed_by_its_followers(name: str, model: Model) -> None:
    asked = grid(modes=MODES, replay="isolated", **OPTIONS[name])
    results = run(model, asked)
    alone = run(model, asked, [cell for cell in asked.cells() if not cell.replay])
    for cell, kept in alone.items():
        same_path(kept, results[cell])
        assert np.abs(weights(kept) - weights(results[cell])).max() <= 1e-5


@pytest.mark.parametrize("name", OPTIONS)
def test_a_recorded_leader_leads_like_one_in_the_batch(name: str, model: Model) -> None:
    asked = grid(modes=MODES, replay="isolated", **OPTIONS[name])
    results = run(model, asked)
    followers = [cell for cell in asked.cells() if cell.replay]
    tracks = {cell: Track.recorded(kept.small) for cell, kept in results.items() if not cell.replay}
    for cell, kept in followed(model, asked, followers, tracks).items():
        same_path(kept, results[cell])
        assert np.abs(weights(kept) - weights(results[cell])).max() <= 1e-5
        assert np.abs(kept.data["logits"] - results[cell].data["logits"]).max() <= 1e-4


def followed(model: Model, asked: Grid, cells: list[Cell], tracks: dict[Cell, Track]) -> Results:
    sinks = [Kept() for _ in cells]
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    capture(model, cells, sinks, wanted, tracks=tracks)
    return dict(zip(cells, sinks, strict=True))


def test_the_order_of_leaders_and_followers_does_not_matter(model: Model) -> None:
    asked = grid(modes=MODES, replay="causal", prune={"threshold": 0.04}, temperature=0.7)
    results, cells = run(model, asked), list(asked.cells())
    for seed in range(3):
        random.Random(seed).shuffle(cells)
        for cell, kept in run(model, asked, cells).items():
            same_path(kept, results[cell])
            assert np.abs(weights(kept) - weights(results[cell])).max() <= 1e-5


def test_a_follower_without_its_leader_is_refused(model: Model) -> None:
    asked = grid(replay="isolated")
    followers = [cell for cell in asked.cells() if cell.replay]
    others = [cell for cell in asked.cells() if cell.prompt != followers[0].prompt]
    with pytest.raises(BadInput, match="follows isolated, which is neither in this batch nor recorded"):
        run(model, asked, [followers[0], *others])


def test_forced_sets_have_their_own_probabilities_and_no_margins(model: Model) -> None:
    results = run(model, grid(modes=MODES, replay="isolated", temperature=0.7))
    apart = []
    for cell, leader in leaders(results).items():
        kept = results[cell]
        for name in ("margin_kept", "margin_dropped", "margin_order"):
            assert np.isnan(kept.small[name]).all()
        assert not np.isnan(leader.small["margin_kept"]).any()
        for step, tokens in enumerate(sets_of(kept)):
            own = np.exp(np.float64(kept.data["logits"][step, tokens]))
            np.testing.assert_allclose(kept.small["probability"][members(kept, step)], own, rtol=1e-5)
        apart.append(np.nanmax(np.abs(kept.small["probability"] - leader.small["probability"])))
    assert max(apart) > 1e-2


def test_a_follower_scores_by_its_own_attention_but_hides_what_its_leader_hides(model: Model) -> None:
    results = run(model, grid(modes=MODES, replay="isolated", prune={"threshold": 0.06}))
    apart = []
    for cell, leader in leaders(results).items():
        one, two = results[cell].small["prune_score"], leader.small["prune_score"]
        assert (np.isnan(one) == np.isnan(two)).all()
        apart.append(np.nanmax(np.abs(one - two), initial=0.0))
    assert max(apart) > 1e-3


def test_single_is_exempt(model: Model) -> None:
    free, replayed = (run(model, grid(modes=MODES, replay=mode)) for mode in (None, "isolated"))
    for cell, kept in replayed.items():
        if cell.mode == "single":
            assert cell.replay is None
            same_path(kept, pick(free, prompt=cell.prompt, mode="single"))


def test_paths_differ_by_visibility_alone_and_only_after_a_wide_set(model: Model) -> None:
    results = run(model, grid(modes=MODES, replay="isolated", threshold=[0.1, 1.0]))
    differ = 0
    for cell, leader in leaders(results).items():
        kept = results[cell]
        one, two = (
            path_digest(cell.prompt, "", None, (), mode, each.small)
            for mode, each in ((cell.mode, kept), ("isolated", leader))
        )
        wide = bool((kept.small["width"] > 1).any())
        assert (one != two) == wide
        differ += wide
        apart = float(np.abs(weights(kept) - weights(leader)).max())
        assert apart > 1e-3 if wide else apart == 0
    assert 0 < differ < len(leaders(results))


def test_what_comes_before_the_first_wide_set_is_shared(model: Model) -> None:
    results = run(model, grid(modes=MODES, replay="isolated"))
    for cell, leader in leaders(results).items():
        kept = results[cell]
        rows = members(kept, int(np.argmax(kept.small["width"] > 1)))[0]
        np.testing.assert_array_equal(
            kept.data["attention"][:, :, :rows, :rows], leader.data["attention"][:, :, :rows, :rows]
        )


def test_a_cell_with_a_track_of_its_own_goes_along_it(model: Model) -> None:
    """So that a capture can be done again along its sets."""
    asked = grid(modes=["visible"], temperature=0.7, prune={"threshold": 0.04}, seeds=[1])
    for cell, kept in run(model, asked).items():
        other = replace(cell, seed=99)  # would sample something else
        (again,) = followed(model, asked, [other], {other: Track.recorded(kept.small)}).values()
        same_path(again, kept)
        assert np.abs(weights(again) - weights(kept)).max() <= 1e-5
