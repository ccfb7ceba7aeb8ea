"""What mixed models mean and what they refuse; test_mixed_reference compares their numbers with R."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tempocube.errors import BadInput
from tempocube.stats import mixed

HERE = Path(__file__).parent / "reference"
DEFAULT = ["1|prompt", "1|prompt:seed", "1|prompt:mode"]


def dataset(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / f"{name}.csv")


def stored(name: str) -> tuple[pd.DataFrame, list[str]]:
    """A frame simulated in R, and its random terms."""
    said = json.loads((HERE / f"mixed_{name}.json").read_text("utf-8"))
    return pd.DataFrame(said["frame"]), said["random"]


# --- what the words mean


def test_the_intercept_is_the_mean_of_equally_weighted_categories() -> None:
    frame = dataset("design_balanced").iloc[:-17]
    fit = mixed.fit(frame, "y ~ category + mode", DEFAULT)
    means = fit.emmeans("category")["mean"]
    assert fit.fixed.loc[0, "term"] == "Intercept"
    assert fit.fixed.loc[0, "estimate"] == pytest.approx(means.mean(), abs=1e-12)
    assert fit.emmeans("1").loc[0, "mean"] == pytest.approx(means.mean(), abs=1e-12)


def test_nesting_is_written_out() -> None:
    frame, _ = stored("nested")
    short = mixed.fit(frame, "y ~ treatment", ["1|school/class"])
    long = mixed.fit(frame, "y ~ treatment", ["(1 | school)", "1|school:class"])
    assert short.components == long.components
    assert short.groups == {"school": 8, "school:class": 24}
    assert short.formula == "y ~ treatment + (1 | school) + (1 | school:class)"


def test_a_slope_brings_its_intercept_and_their_covariance_unless_it_says_0() -> None:
    frame = dataset("sleepstudy")
    together = mixed.fit(frame, "Reaction ~ Days", ["Days|Subject"])
    spelled = mixed.fit(frame, "Reaction ~ Days", ["1 + Days | Subject"])
    apart = mixed.fit(frame, "Reaction ~ Days", ["1|Subject", "0+Days|Subject"])
    assert set(together.components) == {"Subject", "Subject|Days", "Subject|Intercept,Days", "Residual"}
    assert spelled.components == together.components
    assert set(apart.components) == {"Subject", "Subject|Days", "Residual"}
    assert apart.criterion > together.criterion


def test_levels_count_in_order_of_appearance_or_in_their_own() -> None:
    frame = dataset("design_balanced")
    seen = mixed.fit(frame, "y ~ mode", ["1|prompt"], coding="treatment")
    own = frame.assign(mode=pd.Categorical(frame["mode"], ["visible", "isolated", "never"]))
    told = mixed.fit(own, "y ~ mode", ["1|prompt"], coding="treatment")
    assert list(seen.fixed["term"]) == ["Intercept", "mode[T.visible]"]
    assert list(told.fixed["term"]) == ["Intercept", "mode[T.isolated]"]
    assert told.fixed.loc[1, "estimate"] == pytest.approx(-seen.fixed.loc[1, "estimate"])


def test_nothing_depends_on_units_order_of_rows_or_index() -> None:
    frame, random = stored("slopes")
    fit = mixed.fit(frame, "y ~ time * arm", random)
    other = frame.assign(y=1e6 + 1e-3 * frame["y"], time=3600 * frame["time"]).sample(frac=1, random_state=3)
    other["arm"] = pd.Categorical(other["arm"], list(dict.fromkeys(frame["arm"])))
    again = mixed.fit(other, "y ~ time * arm", random)
    for column, tolerance in (("df", 1e-4), ("t", 1e-5), ("p", 1e-6)):
        np.testing.assert_allclose(fit.fixed[column][1:], again.fixed[column][1:], rtol=0, atol=tolerance)
    np.testing.assert_allclose(fit.anova["F"], again.anova["F"], rtol=1e-5)
    assert again.components["person|time"] == pytest.approx(
        fit.components["person|time"] * (1e-3 / 3600) ** 2, rel=1e-4
    )


@pytest.mark.parametrize("power", [-150, -90, 90, 150])
def test_a_response_of_any_size_is_fitted(power: int) -> None:
    frame = dataset("design_balanced").iloc[:-7]
    one = mixed.fit(frame, "y ~ mode", DEFAULT)
    other = mixed.fit(frame.assign(y=10.0**power * frame["y"]), "y ~ mode", DEFAULT)
    assert other.converged
    for column in ("df", "t", "satterthwaite_df"):
        np.testing.assert_allclose(other.fixed[column], one.fixed[column], rtol=1e-5)
    np.testing.assert_allclose(other.fixed["se"] / 10.0**power, one.fixed["se"], rtol=1e-6)
    np.testing.assert_allclose(other.pairs("mode")["se"] / 10.0**power, one.pairs("mode")["se"], rtol=1e-6)
    assert other.criterion == pytest.approx(one.criterion + 2 * (one.n - 2) * power * np.log(10), rel=1e-9)


@pytest.mark.parametrize("residual", [0.1, 0.01, 1e-3, 1e-4])
def test_satterthwaites_df_do_not_depend_on_how_far_groups_are_apart(residual: float) -> None:
    rng = np.random.default_rng(0)
    prompt, mode = np.repeat(np.arange(10), 6), np.tile(["isolated", "visible"], 30)
    y = rng.normal(size=10)[prompt] + residual * rng.normal(size=60)
    fit = mixed.fit(pd.DataFrame({"prompt": prompt, "mode": mode, "y": y}), "y ~ mode", ["1|prompt"])
    np.testing.assert_allclose(fit.satterthwaite["df"], [9, 49], atol=1e-3)
    np.testing.assert_allclose(fit.fixed["df"], [9, 49], atol=1e-3)


def test_terms_are_in_the_formulas_order() -> None:
    frame, random = stored("slopes")
    fit = mixed.fit(frame, "y ~ time * arm", random)
    assert list(fit.anova["term"]) == ["time", "arm", "time:arm"]
    assert list(fit.fixed["term"]) == ["Intercept", "time", "arm[S.placebo]", "time:arm[S.placebo]"]
    other = mixed.fit(frame, "y ~ arm * time", random)
    assert list(other.anova["term"]) == ["arm", "time", "arm:time"]
    np.testing.assert_allclose(fit.anova["F"], other.anova["F"][[1, 0, 2]], rtol=1e-6)
    np.testing.assert_allclose(fit.emmeans("arm")["mean"], other.emmeans("arm")["mean"], rtol=1e-9)


@pytest.mark.parametrize("dtype", ["bool", "boolean"])
def test_levels_true_and_false_are_called_so(dtype: str) -> None:
    frame = dataset("design_balanced")
    frame["seen"] = (frame["mode"] == "visible").astype(dtype)  # type: ignore[call-overload]
    fit = mixed.fit(frame, "y ~ seen", ["1|prompt"], coding="treatment")
    assert fit.fixed.loc[1, "term"] == "seen[T.True]"


def test_pairs_are_adjusted_as_asked() -> None:
    fit = mixed.fit(dataset("design_balanced"), "y ~ category + mode", DEFAULT)
    plain, most = fit.pairs("category", "none"), fit.pairs("category", "bonferroni")
    tukey, holm = fit.pairs("category"), fit.pairs("category", "holm")
    np.testing.assert_allclose(most["p"], np.minimum(10 * plain["p"], 1))
    assert (tukey["p"] > plain["p"]).all()
    assert (tukey["p"] <= most["p"]).all()
    assert (holm["p"] <= most["p"] + 1e-12).all()
    assert holm["p"].min() == pytest.approx(most["p"].min())
    widths = [table["ci_high"] - table["ci_low"] for table in (plain, tukey, most)]
    assert (widths[0] < widths[1]).all()
    assert (widths[1] < widths[2]).all()
    with pytest.raises(BadInput, match="adjust='sidak': choose one of tukey"):
        fit.pairs("category", "sidak")  # type: ignore[arg-type]


def test_formulas_see_columns_only() -> None:
    frame = dataset("design_balanced").rename(columns={"category": "C", "mode": "np"})
    fit = mixed.fit(frame, "y ~ C + np", ["1|prompt"])
    assert list(fit.anova["term"]) == ["C", "np"]
    with pytest.raises(BadInput, match="is no column"):
        mixed.fit(frame, "y ~ __import__('os').getcwd()", ["1|prompt"])


def test_rows_with_gaps_are_dropped_when_asked() -> None:
    frame = dataset("design_balanced")
    holes = frame.copy()
    holes.loc[[3, 40], "y"] = np.nan
    holes.loc[77, "category"] = None
    fit = mixed.fit(holes, "y ~ category + mode", DEFAULT, dropna=True)
    same = mixed.fit(frame.drop([3, 40, 77]), "y ~ category + mode", DEFAULT)
    assert fit.n == 97
    assert fit.criterion == same.criterion


def test_the_callers_frame_stays_as_it_was() -> None:
    frame = dataset("sleepstudy")
    before = frame.copy(deep=True)
    mixed.fit(frame, "Reaction ~ Days", ["Days|Subject"])
    pd.testing.assert_frame_equal(frame, before)


def test_the_default_model_of_100_rows_takes_less_than_300_ms() -> None:
    frame = dataset("design_balanced")

    def seconds() -> float:
        start = time.process_time()
        mixed.fit(frame, "y ~ category + mode", DEFAULT)
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.3


def test_a_design_too_small_for_an_f_says_nan_and_not_a_number_that_looks_like_one() -> None:
    rng = np.random.default_rng(38)
    frame = pd.DataFrame(
        {"g": rng.integers(0, 3, 8), "a": rng.choice(list("xyz"), 8), "y": rng.normal(size=8)}
    )
    row = mixed.fit(frame, "y ~ a", ["1|g"]).anova.iloc[0]
    assert row["num_df"] == 2
    assert row[["F", "den_df", "p"]].isna().all()


# --- what is refused

Change = Callable[[pd.DataFrame], pd.DataFrame]


def filled(column: str, row: int, value: float | None) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return change


def without(category: str, mode: str) -> Change:
    return lambda frame: frame[(frame["category"] != category) | (frame["mode"] != mode)]


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(y=frame["y"].astype(str))


def twice(column: str) -> Change:
    return lambda frame: pd.concat([frame, frame[[column]]], axis=1)


def dated(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(day=pd.Timestamp("2024-01-01") + pd.to_timedelta(range(len(frame)), unit="D"))


def same(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def test_bit_identical_replicates_are_refused() -> None:
    frame = dataset("design_deterministic")
    with pytest.raises(BadInput, match="bit-identical replicates: collapse them first"):
        mixed.fit(frame, "y ~ category + mode", DEFAULT)


@pytest.mark.parametrize("random", [["1|prompt"], ["1|prompt", "1|prompt:seed"], DEFAULT])
def test_seeds_that_are_copies_are_refused_and_their_means_fit(random: list[str]) -> None:
    frame = dataset("design_balanced")
    cells = frame.groupby(["prompt", "category", "mode"])["y"]
    copies = frame.assign(y=cells.transform("mean"))
    with pytest.raises(BadInput, match="bit-identical replicates: collapse them first"):
        mixed.fit(copies, "y ~ category + mode", random)
    fit = mixed.fit(cells.mean().reset_index(), "y ~ category + mode", ["1|prompt"])
    assert fit.anova.set_index("term").loc["mode", "den_df"] == pytest.approx(9)


def test_a_response_without_residual_is_refused() -> None:
    frame = dataset("design_balanced")
    means = frame.groupby("prompt")["y"].transform("mean") + frame.groupby(["prompt", "seed"])["y"].transform(
        "mean"
    )
    exact = frame.assign(y=means + 0.1 * (frame["mode"] == "visible"))
    with pytest.raises(BadInput, match="leaves no residual in 'y'"):
        mixed.fit(exact, "y ~ category + mode", DEFAULT)


@pytest.mark.parametrize(
    ("change", "formula", "random", "message"),
    [
        (same, "y ~ categry", ["1|prompt"], "'categry' is no column of the frame: did you mean 'category'?"),
        (same, "y ~ np.log(y)", ["1|prompt"], r"functions in formulas are not evaluated"),
        (same, "y ~ mode +", ["1|prompt"], "write it like 'y ~ category + mode'"),
        (same, "~ mode", ["1|prompt"], "needs exactly one response"),
        (same, "y ~ 0", ["1|prompt"], "write 'y ~ 1' for the mean alone"),
        (same, "category ~ mode", ["1|prompt"], "'category' must be numeric"),
        (as_text, "y ~ mode", ["1|prompt"], "'y' must be numeric"),
        (same, "y ~ mode", "1|prompt", "give a list of terms"),
        (same, "y ~ mode", [], "give a list of terms"),
        (same, "y ~ mode", ["prompt"], "random term 'prompt' cannot be read: write 1|group"),
        (same, "y ~ mode", ["mode||prompt"], "cannot be read"),
        (same, "y ~ mode", ["0|prompt"], "cannot be read"),
        (same, "y ~ mode", ["1|promt"], "did you mean 'prompt'?"),
        (same, "y ~ mode", ["mode|prompt"], "write 1|group:mode for a category"),
        (same, "y ~ mode", ["1|prompt", "1|prompt/seed"], "'1 | prompt' repeats 'prompt'"),
        (filled("y", 5, None), "y ~ mode", ["1|prompt"], "'y' is missing or infinite in 1 of 100 rows"),
        (filled("y", 5, np.inf), "y ~ mode", ["1|prompt"], "'y' is missing or infinite in 1 of 100 rows"),
        (filled("prompt", 7, None), "y ~ mode", ["1|prompt"], "'prompt' is missing or infinite in 1 of 100"),
        (
            lambda f: f[f["mode"] == "visible"],
            "y ~ mode",
            ["1|prompt"],
            "'mode' has one level only, 'visible'",
        ),
        (lambda f: f.assign(y=1.5), "y ~ mode", ["1|prompt"], "'y' is the same in all 100 rows"),
        (
            without("factual", "visible"),
            "y ~ category * mode",
            ["1|prompt"],
            "category=factual, mode=visible",
        ),
        (
            lambda f: f.assign(twin=f["mode"]),
            "y ~ mode + twin",
            ["1|prompt"],
            "fixed effects repeat each other",
        ),
        (same, "y ~ mode", ["1|prompt:seed:mode"], "prompt:seed:mode, Residual cannot be told apart"),
        (same, "y ~ prompt", ["1|prompt"], "'prompt' cannot be told from the fixed effects"),
        (
            lambda f: f.assign(p=f["prompt"]),
            "y ~ mode",
            ["1|prompt", "1|p"],
            "prompt, p cannot be told apart",
        ),
        (lambda f: f.head(3), "y ~ mode", ["1|seed"], "3 rows cannot tell 2 fixed effects from noise"),
        (lambda f: pd.concat([f] * 31), "y ~ mode", ["1|seed"], "3100 rows are too many, at most 3000"),
        (lambda f: f.assign(y=f["y"] + 0j), "y ~ mode", ["1|prompt"], "'y' is complex"),
        (lambda f: f.assign(x=f["y"] + 0j), "y ~ x", ["1|prompt"], "'x' is complex"),
        (twice("y"), "y ~ mode", ["1|prompt"], "2 columns of the frame are called 'y': rename all but one"),
        (twice("mode"), "y ~ mode", ["1|prompt"], "2 columns of the frame are called 'mode'"),
        (lambda f: f.assign(c=[1, "1", 2, 3] * 25), "y ~ c", ["1|prompt"], "'c' has levels 1 and '1'"),
        (lambda f: f.rename(columns={"mode": "Intercept"}), "y ~ Intercept", ["1|prompt"], "rename it"),
        (lambda f: f.rename(columns={"prompt": "Residual"}), "y ~ mode", ["1|Residual"], "rename it"),
        (same, "y ~ mode", ["Intercept|prompt"], "cannot be read"),
        (same, "y ~ y + mode", ["1|prompt"], "'y' is the response and explains itself"),
        (same, "y ~ mode", ["y|prompt"], "'y' is the response and cannot be a random effect"),
        (dated, "y ~ day", ["1|prompt"], "make it a number first, such as days since the earliest"),
        (lambda f: f.assign(y=1e160 * f["y"]), "y ~ mode", ["1|prompt"], "whose square is no number"),
        (lambda f: f.assign(y=1e-160 * f["y"]), "y ~ mode", ["1|prompt"], "whose square is no number"),
        (lambda f: f.head(0), "y ~ mode", ["1|seed"], "no row"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(
    change: Change, formula: str, random: Any, message: str
) -> None:
    frame = change(dataset("design_balanced"))
    with pytest.raises(BadInput, match=re.escape(message)) as refusal:
        mixed.fit(frame, formula, random)
    assert "\n" not in str(refusal.value)


def test_an_unknown_coding_or_a_mean_of_no_category_is_refused() -> None:
    frame = dataset("sleepstudy")
    with pytest.raises(BadInput, match="coding='helmert': choose sum or treatment"):
        mixed.fit(frame, "Reaction ~ Days", ["1|Subject"], coding="helmert")  # type: ignore[arg-type]
    fit = mixed.fit(frame, "Reaction ~ Days", ["1|Subject"])
    with pytest.raises(BadInput, match="'Days' is no category of the model"):
        fit.emmeans("Days")
    with pytest.raises(BadInput, match="there is one mean only"):
        fit.pairs("1")
