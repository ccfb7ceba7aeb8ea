"""The closed forms: R's figures, statsmodels and pingouin, and how often they are right."""

import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from tempocube.dataset.scenarios import Design, Effects, values
from tempocube.stats import closed
from tempocube.stats.calibrated import closed_form

HERE = Path(__file__).parent / "reference"
CLUSTER = json.loads((HERE / "refs_cluster.json").read_text())["cluster"]
CODES = np.repeat(np.arange(5), 2)
FRAMES = 5_000


def table(name: str) -> pd.DataFrame:
    rows = pd.read_csv(HERE / f"{name}.csv")
    return rows.pivot_table(index="prompt", columns="mode", values="y")


@contextmanager
def deprecations_ignored() -> Iterator[None]:
    """Pingouin uses what pandas is about to give up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture
def x() -> np.ndarray:
    return table("design_balanced").mean(axis=1).to_numpy()


@pytest.fixture
def difference() -> np.ndarray:
    own = table("design_balanced")
    return (own["visible"] - own["isolated"]).to_numpy()


@pytest.mark.parametrize("name", CLUSTER)
def test_prompt_level_answers_are_the_references(name: str) -> None:
    own, told = table(name), CLUSTER[name]
    x, apart = own.mean(axis=1).to_numpy(), (own["visible"] - own["isolated"]).to_numpy()
    made = closed.mean(x)
    assert [made.t, made.p, made.low, made.high] == pytest.approx(
        [told["t_df9"]["t"], told["t_df9"]["p"], *told["t_df9"]["ci"]], abs=1e-8
    )
    fixed = closed.category_mean(x, CODES)
    assert (fixed.df, fixed.low, fixed.high) == pytest.approx(
        (5, *told["mean_cat_fixed_df5"]["ci"]), abs=1e-8
    )
    assert closed.prediction(x)[:2] == pytest.approx(told["pred_new_prompt_df9"], abs=1e-8)
    anova = closed.groups(x, CODES)
    assert (anova.f, anova.p) == pytest.approx((told["anova_category"]["F"], told["anova_category"]["p"]))
    mode = closed.mean(apart)
    assert [mode.t, mode.p, mode.low] == pytest.approx(
        [told["mode_t"]["t"], told["mode_t"]["p"], told["mode_t"]["ci"][0]], abs=1e-8
    )
    tost, r = closed.tost(apart, 0.1), told["tost_0.1"]
    assert [tost.p_low, tost.p_high, tost.low, tost.high] == pytest.approx(
        [r["p_low"], r["p_up"], *r["ci90"]], abs=1e-8
    )


def test_closed_forms_are_those_of_the_libraries(x: np.ndarray, difference: np.ndarray) -> None:
    frame = pd.DataFrame({"y": x, "category": CODES})
    with deprecations_ignored():
        anova = pingouin.anova(data=frame, dv="y", between="category")
    assert closed.groups(x, CODES).f == pytest.approx(anova["F"].iloc[0])
    assert (closed.mean(x).low, closed.mean(x).high) == pytest.approx(DescrStatsW(x).tconfint_mean())
    t, p = closed.studentised(x)
    told = smf.ols("y ~ 1", frame).fit().outlier_test("bonf")
    assert t == pytest.approx(told["student_resid"].to_numpy())
    assert p == pytest.approx(told["bonf(p)"].to_numpy())
    both = ttost_paired(difference, np.zeros(10), -0.1, 0.1)
    tost = closed.tost(difference, 0.1)
    assert (tost.p, tost.p_low, tost.p_high) == pytest.approx((both[0], both[1][1], both[2][1]))


def test_the_intraclass_correlation_is_pingouins() -> None:
    y = values(Design(), Effects(), n=1, seed=2)[0].mean(axis=-1)
    prompt, seed = (axis.ravel() for axis in np.indices(y.shape))
    rows = pd.DataFrame({"prompt": prompt, "seed": seed, "y": y.ravel()})
    with deprecations_ignored():
        told = pingouin.intraclass_corr(rows, targets="prompt", raters="seed", ratings="y")
    assert closed.agreement_of_raters(y) == pytest.approx(told["ICC"].iloc[1])


def test_variances_are_those_planted() -> None:
    effects = Effects(prompt_sd=0.3, prompt_seed_sd=0.15, prompt_mode_sd=0.1, residual_sd=0.12)
    made = closed.components(values(Design(), effects, n=4_000, seed=3)).variances
    found = {name: float(np.mean(value)) for name, value in made.items()}
    assert found == pytest.approx(
        {"prompt": 0.09, "prompt:seed": 0.0225, "prompt:mode": 0.01, "Residual": 0.0144}, rel=0.05
    )


def test_variances_of_one_seed_or_one_mode_leave_their_noise_in_the_residual() -> None:
    y = values(Design(), Effects(), n=4_000, seed=4)
    one_seed = closed.components(y[:, :, :1]).variances
    assert np.mean(one_seed["Residual"]) == pytest.approx(0.05**2 + 0.1**2, rel=0.05)
    one_mode = closed.components(y[..., :1]).variances
    assert np.mean(one_mode["Residual"]) == pytest.approx(0.1**2 + 0.1**2, rel=0.05)
    assert np.mean(one_mode["prompt"]) == pytest.approx(0.25**2 + 0.05**2, rel=0.05)


def test_mahalanobis_flags_five_percent_of_clean_studies_and_finds_an_odd_prompt() -> None:
    random = np.random.default_rng(5)
    clean = random.normal(size=(FRAMES, 10, 3)) @ random.normal(size=(3, 3))
    assert np.mean(closed.mahalanobis(clean)[1].min(axis=1) < 0.05) <= 0.065
    clean[:, 3] += 30 * clean.std(axis=(0, 1))
    assert np.mean(closed.mahalanobis(clean)[1][:, 3] < 0.05) > 0.9


@pytest.fixture(scope="module")
def rates() -> dict[str, float]:
    """Scenario A without its crossed seed effect; the true SD of prompt means goes with it."""
    spread = math.sqrt(0.25**2 + 0.1**2 / 5 + 0.05**2 / 2 + 0.1**2 / 10)
    return closed_form(values(Design(), Effects(), n=FRAMES, seed=11), Design().category_of, spread=spread)


@pytest.mark.parametrize(
    "interval", ["mean_t", "mean_these_categories", "mean_new_categories", "prediction", "spread", "d"]
)
def test_intervals_cover_the_truth_95_times_in_100(rates: dict[str, float], interval: str) -> None:
    assert 0.94 <= rates[interval] <= 0.96


@pytest.mark.parametrize(
    "test", ["category_f", "category_permutation", "mode_t", "mode_sign_flip", "tost_at_the_bound"]
)
def test_tests_reject_the_truth_5_times_in_100(rates: dict[str, float], test: str) -> None:
    assert 0.04 <= rates[test] <= 0.06


def test_clean_prompts_are_rarely_flagged(rates: dict[str, float]) -> None:
    assert rates["any_outlier"] <= 0.065


@pytest.mark.parametrize(("shift", "found"), [(4, 0.50), (6, 0.85)])
def test_an_odd_prompt_is_found(shift: float, found: float) -> None:
    # The shift is in SDs of what is looked at, prompt means; Effects counts in SDs of prompts alone.
    spread = math.sqrt(0.25**2 + 0.1**2 / 5 + 0.05**2 / 2 + 0.1**2 / 10)
    effects = Effects(outlier=(3, shift * spread / 0.25))
    x = closed.prompt_means(values(Design(), effects, n=FRAMES, seed=12))
    assert np.mean(closed.studentised(x)[1][:, 3] < 0.05) >= found


@pytest.mark.parametrize(
    "effects", [Effects(same_seeds=True), Effects(same_seeds=True, same_modes=True)], ids=["D", "C"]
)
def test_copies_do_not_change_how_often_the_mean_is_covered(effects: Effects) -> None:
    y = values(Design(), effects, n=FRAMES, seed=13)[:, :, :1]
    made = closed.mean(closed.prompt_means(y))
    assert 0.94 <= np.mean((made.low <= 0) & (made.high >= 0)) <= 0.96


def test_twenty_thousand_studies_take_less_than_a_minute() -> None:
    y: Any = values(Design(), Effects(), n=20_000, seed=14)
    start = time.perf_counter()
    closed_form(y, Design().category_of)
    assert time.perf_counter() - start < 60
