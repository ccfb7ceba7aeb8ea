"""Permutation and sign flips: the reference's p, all arrangements counted, the size that was asked for."""

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tempocube.stats import resampling

HERE = Path(__file__).parent / "reference"
CODES = np.repeat(np.arange(5), 2)


def prompt_table() -> pd.DataFrame:
    rows = pd.read_csv(HERE / "design_balanced.csv")
    return rows.pivot_table(index="prompt", columns="mode", values="y")


def test_category_permutation_is_the_references() -> None:
    found = resampling.category_labels(prompt_table().mean(axis=1).to_numpy(), CODES)
    assert (found.arrangements, found.exact) == (945, True)
    assert found.p == pytest.approx(0.0994708994708995, abs=1e-12)


def test_sign_flip_is_the_references() -> None:
    table = prompt_table()
    found = resampling.sign_flip((table["visible"] - table["isolated"]).to_numpy())
    assert (found.arrangements, found.exact) == (1024, True)
    assert found.p == pytest.approx(0.013671875, abs=1e-12)


@pytest.mark.parametrize("codes", [[0, 0, 1, 1, 2], [0, 1, 0, 1, 2, 2], [0, 0, 0, 1, 1], [0, 1, 2, 2, 2]])
def test_permutation_is_that_of_all_orders(codes: list[int]) -> None:
    labels, x = np.array(codes), np.random.default_rng(3).normal(size=len(codes)) ** 2

    def between(order: Any) -> float:
        groups = [x[np.array(order) == code] for code in range(3)]
        return sum(len(own) * (own.mean() - x.mean()) ** 2 for own in groups if len(own))

    every = np.array([between(order) for order in permutations(codes)])
    found = resampling.category_labels(x, labels)
    assert found.exact
    assert found.p == pytest.approx(np.mean(every >= between(codes) - 1e-9), abs=1e-12)


def test_labels_are_drawn_where_they_cannot_be_counted() -> None:
    codes = np.repeat(np.arange(4), 4)
    found = resampling.category_labels(np.arange(16.0), codes, seed=1)
    assert not found.exact
    assert found.p == pytest.approx(1e-4)  # only itself, of 9,999 and itself
    assert resampling.category_labels(np.arange(16.0), codes, seed=1) == found


def test_sign_flip_counts_every_sign() -> None:
    x = np.array([0.3, -0.1, 0.8, 0.2, 0.05])
    means = np.array([abs(np.dot(flip, x)) for flip in product((1, -1), repeat=5)])
    assert resampling.sign_flip(x).p == pytest.approx(np.mean(means >= abs(x.sum()) - 1e-12))


def test_a_difference_of_nothing_but_zeros_has_p_one() -> None:
    assert resampling.sign_flip(np.zeros(6)).p == 1.0


def test_max_t_of_one_cell_is_its_sign_flip() -> None:
    x = np.random.default_rng(5).normal(0.4, 1, size=10)
    p, exact = resampling.max_t(x[:, None])
    assert exact
    assert p[0] == pytest.approx(resampling.sign_flip(x).p)


def test_max_t_finds_the_planted_cell_and_no_other() -> None:
    x = np.random.default_rng(6).normal(size=(10, 300))
    x[:, 17] += 6
    p, _ = resampling.max_t(x)
    assert p[17] <= 2 / 512
    assert np.sum(p < 0.05) == 1


def test_max_t_rejects_five_percent_of_null_maps() -> None:
    random = np.random.default_rng(7)
    rejected = [(resampling.max_t(random.normal(size=(8, 30)))[0] < 0.05).any() for _ in range(400)]
    assert 0.025 <= np.mean(rejected) <= 0.065


def test_a_run_of_layers_is_one_cluster() -> None:
    x = np.random.default_rng(8).normal(0, 0.5, size=(10, 28))
    x[:, 5:11] -= 1.5
    found = min(resampling.depth_clusters(x), key=lambda cluster: cluster.p)
    assert (found.first, found.last) == (5, 10)
    assert found.mass < 0
    assert found.p <= 2 / 512


def test_clusters_reject_five_percent_of_null_depths() -> None:
    random = np.random.default_rng(9)
    lowest = [
        min((c.p for c in resampling.depth_clusters(random.normal(size=(7, 20)))), default=1.0)
        for _ in range(300)
    ]
    assert 0.02 <= np.mean(np.array(lowest) < 0.05) <= 0.07


def test_layers_that_lean_no_way_have_no_cluster() -> None:
    x = np.tile([1.0, -1.0, 0.5, -0.5], 2)[:, None] + np.zeros((8, 6))
    assert resampling.depth_clusters(x) == []


def test_seed_labels_reject_five_percent_without_and_nearly_all_with_an_effect() -> None:
    random = np.random.default_rng(10)
    null = [resampling.seed_labels(random.normal(size=(10, 5)), i, 400).p for i in range(400)]
    assert 0.025 <= np.mean(np.array(null) < 0.05) <= 0.075
    acting = random.normal(size=(10, 5)) + np.array([2, 1, 0, -1, -2])
    assert resampling.seed_labels(acting).p < 0.001


def test_bootstrap_t_leans_with_skewed_prompts() -> None:
    x = np.random.default_rng(11).lognormal(0, 1, size=10)
    found = resampling.bootstrap_t(x)
    assert found.low < x.mean() < found.high
    assert found.high - x.mean() > 1.3 * (x.mean() - found.low)
    assert resampling.bootstrap_t(x) == found
    assert json.dumps([found.low, found.high, found.p])


@pytest.mark.parametrize("shift", np.linspace(-2, 2, 9))
def test_p_of_bootstrap_t_is_below_5_percent_where_its_interval_leaves_zero_out(shift: float) -> None:
    found = resampling.bootstrap_t(np.random.default_rng(11).lognormal(0, 1, size=10) - 1.5 + shift)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
