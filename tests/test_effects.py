"""Effect sizes against R's, power against simulated studies and the design's figures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import stats

from tempocube.stats import effects

HERE = Path(__file__).parent / "reference"

# mean, d, its interval and J as R gives them for the two designs
REFERENCE = {
    "design_balanced": (-1.7602615579185, (-2.75482603174111, -0.73110590083964)),
    "design_singular": (-2.71566742848889, (-4.08184006185042, -1.32285489483678)),
}
HEDGES = 0.913874891792552  # for ten prompts


def means(name: str) -> np.ndarray:
    return pd.read_csv(HERE / f"{name}.csv").groupby("prompt")["y"].mean().to_numpy()


@pytest.mark.parametrize("name", REFERENCE)
def test_d_and_its_interval_are_the_references(name: str) -> None:
    d, ci = REFERENCE[name]
    x = means(name)
    assert effects.cohen_d(x) == pytest.approx(d, abs=1e-9)
    assert effects.d_interval(d, 10) == pytest.approx(ci, abs=1e-4)
    assert effects.hedges_g(x) == pytest.approx(HEDGES * d, abs=1e-9)


def test_d_is_pingouins() -> None:
    x = means("design_balanced")
    assert effects.cohen_d(x) == pytest.approx(pingouin.compute_effsize(x, 0, eftype="cohen"))
    # pingouin takes the usual approximation of the factor
    assert effects.hedges_g(x) == pytest.approx(pingouin.compute_effsize(x, 0, eftype="hedges"), abs=1e-3)


def test_the_interval_of_no_effect_is_symmetric() -> None:
    low, high = effects.d_interval(0.0, 10)
    assert low == pytest.approx(-high)
    assert high == pytest.approx(0.62, abs=0.01)


def test_ten_of_ten_prompts_leave_a_share_of_at_least_two_thirds() -> None:
    assert effects.agreement(10, 10) == pytest.approx((0.6915, 1.0), abs=1e-4)
    assert effects.agreement(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)


def test_ten_prompts_hardly_see_categories() -> None:
    powers = [effects.category_power(f, 10, 5) for f in (0.4, 0.8, 1.2, 2.0)]
    assert powers == pytest.approx([0.09, 0.23, 0.48, 0.90], abs=0.006)
    assert effects.category_power(effects.category_detectable(10, 5), 10, 5) == pytest.approx(0.8)


def test_sixteen_prompts_a_category_see_a_large_effect() -> None:
    assert effects.prompts_per_category(0.4, 5) == 16
    enough = effects.prompts_per_category(0.25, 5)
    assert (
        effects.category_power(0.25, 5 * enough, 5) >= 0.8 > effects.category_power(0.25, 5 * enough - 5, 5)
    )


def test_more_prompts_narrow_the_interval() -> None:
    assert [effects.prompts_for_half_width(0.25, width) for width in (0.18, 0.12, 0.10, 0.05)] == [
        10,
        20,
        27,
        99,
    ]


def test_the_detectable_mean_is_found_four_times_in_five() -> None:
    shift = effects.mean_detectable(0.25, 10)
    x = np.random.default_rng(1).normal(shift, 0.25, size=(20_000, 10))
    t = x.mean(axis=1) / x.std(axis=1, ddof=1) * np.sqrt(10)
    assert np.mean(t > 2.262157) == pytest.approx(0.8, abs=0.01)


def test_power_of_equivalence_is_that_of_the_design() -> None:
    found = [effects.tost_power(sd, 10, 0.1) for sd in (0.05, 0.08, 0.12)]
    assert found == pytest.approx([1.0, 0.95, 0.58], abs=0.01)


def test_power_to_find_an_odd_prompt_is_that_of_the_design() -> None:
    found = [effects.outlier_power(shift, 10) for shift in (3, 4, 5, 6)]
    assert found == pytest.approx([0.26, 0.53, 0.77, 0.92], abs=0.01)


def test_the_interval_of_f_covers_the_truth() -> None:
    random, codes, truth = np.random.default_rng(2), np.repeat(np.arange(5), 2), 0.8
    shift = np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    shift *= truth / np.sqrt(np.mean(shift**2))
    covered = []
    for _ in range(300):
        x = shift[codes] + random.normal(size=10)
        groups = x.reshape(5, 2)
        f = (2 * groups.mean(axis=1).var(ddof=1)) / groups.var(axis=1, ddof=1).mean()
        low, high = effects.f_interval(f, 4, 5)
        covered.append(low <= truth <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_an_f_below_chance_estimates_nothing() -> None:
    assert effects.f_estimate(0.7, 4, 5) == 0.0
    assert json.dumps(effects.f_interval(0.7, 4, 5))


@pytest.mark.parametrize("prompts", [2, 3, 10, 37, 100, 400, 1000, 5000])
def test_power_has_a_value_however_large_the_study_and_the_effect(prompts: int) -> None:
    for size in (0.0, 0.3, 1.0, 4.0, 10.0, 30.0):
        assert 0 <= effects.difference_power(1.0, prompts, size) <= 1
        assert prompts < 3 or 0 <= effects.outlier_power(size, prompts) <= 1
        low, high = effects.d_interval(size, prompts)
        assert low < size < high
    found = effects.mean_detectable(0.25, prompts)
    assert effects.difference_power(0.25, prompts, found) == pytest.approx(0.8, abs=1e-6)
    found = effects.one_sided_detectable(0.25, prompts)
    assert effects.one_sided_power(0.25, prompts, found) == pytest.approx(0.8, abs=1e-6)


def test_power_of_a_one_sided_test_is_that_of_simulated_studies() -> None:
    x = np.random.default_rng(5).normal(0.3, 0.4, size=(20_000, 10))
    p = stats.ttest_1samp(x, 0.0, axis=1, alternative="greater").pvalue
    assert np.mean(p < 0.05) == pytest.approx(effects.one_sided_power(0.4, 10, 0.3), abs=0.01)


def test_seeds_that_can_just_be_seen_are_seen_in_four_studies_of_five() -> None:
    seeds = np.array([1.0, 0.5, 0.0, -0.5, -1.0])
    seeds *= effects.seeds_detectable(0.4, 10, 5) / seeds.std(ddof=1)
    y = np.random.default_rng(6).normal(seeds, 0.4, size=(5_000, 10, 5))
    by_seed, by_prompt = y.mean(axis=1, keepdims=True), y.mean(axis=2, keepdims=True)
    overall = y.mean(axis=(1, 2), keepdims=True)
    rest = np.sum((y - by_seed - by_prompt + overall) ** 2, axis=(1, 2)) / 36
    f = 10 * np.sum((by_seed - overall) ** 2, axis=(1, 2)) / 4 / rest
    assert np.mean(stats.f.sf(f, 4, 36) < 0.05) == pytest.approx(0.8, abs=0.02)
