"""Frames of known truth: their parts have the variances asked for, and each scenario is what it says."""

import json
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from tempocube.dataset.scenarios import SCENARIOS, SEEDS, Design, Effects, frame, values


def test_components_of_variance_are_those_asked_for() -> None:
    asked = Effects(prompt_sd=0.3, seed_sd=0.2, prompt_seed_sd=0.15, prompt_mode_sd=0.12, residual_sd=0.1)
    y = values(Design(categories=(3, 3), seeds=3), asked, n=20_000, seed=5)
    covariance = {
        "all": y[:, 0, 0, 0] * y[:, 0, 0, 0],
        "prompt": y[:, 0, 0, 0] * y[:, 0, 1, 1],
        "prompt and seed": y[:, 0, 0, 0] * y[:, 0, 0, 1],
        "prompt and mode": y[:, 0, 0, 0] * y[:, 0, 1, 0],
        "seed": y[:, 0, 0, 0] * y[:, 1, 0, 1],
        "none": y[:, 0, 0, 0] * y[:, 5, 1, 1],
    }
    found = {name: product.mean() for name, product in covariance.items()}
    assert found["prompt"] == pytest.approx(0.3**2, rel=0.05)
    assert found["prompt and seed"] - found["prompt"] == pytest.approx(0.2**2 + 0.15**2, rel=0.1)
    assert found["prompt and mode"] - found["prompt"] == pytest.approx(0.12**2, abs=0.004)
    assert found["seed"] == pytest.approx(0.2**2, abs=0.004)
    assert found["none"] == pytest.approx(0, abs=0.004)
    assert found["all"] == pytest.approx(0.3**2 + 0.2**2 + 0.15**2 + 0.12**2 + 0.1**2, rel=0.05)


def test_skewed_prompts_keep_mean_and_sd() -> None:
    effects = Effects(skewed=True, prompt_seed_sd=0, prompt_mode_sd=0, residual_sd=0)
    y = values(Design(), effects, n=50_000, seed=2)[..., 0, 0].ravel()
    assert y.mean() == pytest.approx(0, abs=0.005)
    assert y.std() == pytest.approx(0.25, rel=0.03)
    assert 3 < ((y - y.mean()) ** 3).mean() / y.std() ** 3 < 5


def test_scenarios_are_those_of_the_design_document() -> None:
    many = {name: values(Design(), effects, n=2_000, seed=4) for name, effects in SCENARIOS.items()}
    prompts = {name: y.mean(axis=(2, 3)) for name, y in many.items()}
    assert "".join(SCENARIOS) == "ABCDEFG"
    assert many["B"].mean(axis=(1, 3)).std() > 1.5 * many["A"].mean(axis=(1, 3)).std()
    assert np.ptp(many["C"], axis=(2, 3)).max() == 0
    assert np.ptp(many["D"], axis=2).max() == 0 < np.ptp(many["D"], axis=3).min()
    category = prompts["F"].reshape(2_000, 5, 2).mean(axis=(0, 2))
    assert np.allclose(category - category[0], (0, 0.1, -0.1, 0.25, -0.25), atol=0.03)
    assert (many["F"][..., 1] - many["F"][..., 0]).mean() == pytest.approx(-0.08, abs=0.01)
    pairs = prompts["G"].reshape(2_000, 5, 2)
    assert (pairs[..., 0] * pairs[..., 1]).mean() == pytest.approx(0.2**2, rel=0.1)


def test_an_outlier_is_shifted_and_the_others_stay() -> None:
    plain, shifted = (values(Design(), Effects(outlier=outlier), n=3, seed=1) for outlier in (None, (4, 6.0)))
    moved = shifted - plain
    assert np.allclose(moved[:, 4], 6 * 0.25)
    assert np.allclose(np.delete(moved, 4, axis=1), 0)


def test_changing_one_effect_leaves_the_random_parts_of_the_others() -> None:
    one, other = (values(Design(), Effects(seed_sd=sd, mean=sd), n=4, seed=9) for sd in (0.0, 0.2))
    difference = other - one - 0.2
    assert np.allclose(difference, difference[:, :1, :, :1])


def test_missing_cells_are_a_fixed_share_of_every_frame() -> None:
    y = values(Design(), Effects(missing=0.15), n=200, seed=3)
    gone = np.isnan(y)
    assert (gone.sum(axis=(1, 2, 3)) == 15).all()
    assert (gone.mean(axis=0) > 0).mean() > 0.99
    kept = values(Design(), Effects(), n=200, seed=3)
    assert np.array_equal(y[~gone], kept[~gone])


def test_a_frame_is_the_first_of_the_values() -> None:
    effects = replace(SCENARIOS["F"], missing=0.1)
    rows, first = frame(Design(), effects, seed=8), values(Design(), effects, n=7, seed=8)[0]
    assert list(rows.columns) == ["prompt", "category", "seed", "mode", "path_digest", "downweighting"]
    assert np.array_equal(rows["downweighting"], first[~np.isnan(first)])
    assert rows.groupby("category")["prompt"].nunique().tolist() == [2] * 5
    assert set(rows["seed"]) == set(SEEDS)


def test_design_and_effects_travel_and_can_be_written_down() -> None:
    for each in (Design(), *SCENARIOS.values()):
        assert pickle.loads(pickle.dumps(each)) == each
        assert json.loads(json.dumps(asdict(each)))


def test_20_000_frames_take_seconds() -> None:
    begun = time.perf_counter()
    assert values(Design(), SCENARIOS["A"], n=20_000).shape == (20_000, 10, 5, 2)
    assert time.perf_counter() - begun < 20


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Design(categories=()), "categories"),
        (lambda: Design(modes=("isolated", "seen")), "modes: different ones of isolated, causal"),
        (lambda: Design(seeds=0), "at least 1"),
        (lambda: Design(max_width=9), "max_width: 2 to 8"),
        (lambda: Design(vocab=5), "at least 8 tokens"),
        (lambda: Effects(sink=1), "sink"),
        (lambda: Effects(mode={"seen": 1}), "unknown modes seen"),
        (lambda: Effects(control="nothing"), "clone, repeat"),
        (lambda: values(Design(), Effects(category=(1, 2)), n=1), "2 effects for 5 categories"),
    ],
)
def test_what_cannot_be_simulated_is_refused(wrong: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()
