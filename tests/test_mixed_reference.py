"""Mixed models against R: lme4, lmerTest, pbkrtest and emmeans, whose numbers reference/make.R stored."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from tempocube.stats import mixed

ESTIMATE = 1e-6
SE = 1e-5  # relative
DF = 1e-3
P = 1e-5
CRITERION = 1e-6

HERE = Path(__file__).parent / "reference"
REFS: dict[str, Any] = json.loads((HERE / "refs_mixed.json").read_text("utf-8"))["models"]
SIMULATED = sorted(path.stem.removeprefix("mixed_") for path in HERE.glob("mixed_*.json"))
DEFAULT = ["1|prompt", "1|prompt:seed", "1|prompt:mode"]


def stored(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A frame simulated in R, and what R says of it."""
    said = json.loads((HERE / f"mixed_{name}.json").read_text("utf-8"))
    return pd.DataFrame(said["frame"]), said


def dataset(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / f"{name}.csv")


def reference(name: str) -> mixed.Fit:
    """The fit of a model in refs_mixed.json, coded as R does."""
    fixed, *random = re.split(r"\s*\+\s*\((?=[^)]*\|)", REFS[name]["formula"].replace(")", ""))
    frame = pd.read_csv(HERE / REFS[name]["dataset"])
    return mixed.fit(frame, fixed, random, coding="treatment")


def parts(term: str) -> frozenset[str]:
    """A coefficient's name without the notation: time:armdrug and arm[T.drug]:time are the same."""
    return frozenset(re.sub(r"\[[TS]\.|\]|[()]", "", term).split(":"))


def ordered(table: pd.DataFrame, terms: list[str]) -> pd.DataFrame:
    """The rows of a table in the order of R's."""
    place = {parts(term): i for i, term in enumerate(table["term"])}
    return table.iloc[[place[parts(term)] for term in terms]]


def assert_coefficients(table: pd.DataFrame, said: pd.DataFrame) -> None:
    mine = ordered(table, list(said["term"]))
    close(mine["estimate"], said["Estimate"], ESTIMATE * max(1.0, said["Estimate"].abs().max()))
    np.testing.assert_allclose(mine["se"], said["Std. Error"], rtol=SE)
    close(mine["df"], said["df"], DF)
    close(mine["p"], said["Pr(>|t|)"], P)


def assert_anova(table: pd.DataFrame, said: pd.DataFrame) -> None:
    mine = ordered(table, list(said["term"]))
    np.testing.assert_allclose(mine["F"], said["F value"], rtol=SE)
    assert list(mine["num_df"]) == list(said["NumDF"])
    close(mine["den_df"], said["DenDF"], DF)
    close(mine["p"], said["Pr(>F)"], P)


def assert_components(made: dict[str, float], said: pd.DataFrame) -> None:
    """lme4's table of variances; a nested grouping is class:school there, a repeated one person.1."""
    mine = {frozenset(re.split("[:|,]", key)): value for key, value in made.items()}
    assert len(mine) == len(said)
    for grp, var1, var2, vcov in said[["grp", "var1", "var2", "vcov"]].itertuples(index=False):
        effects = [name.strip("()") for name in (var1, var2) if not pd.isna(name)]
        key = frozenset([*grp.removesuffix(".1").split(":"), *(effects if effects != ["Intercept"] else [])])
        assert mine[key] == pytest.approx(vcov, rel=2e-4, abs=1e-6 * said["vcov"].abs().max())


def assert_means(fit: mixed.Fit, term: str, said: pd.DataFrame) -> None:
    keys = [] if term == "1" else term.split(":")
    mine = fit.emmeans(term)
    if keys:
        mine = mine.set_index(keys).loc[
            list(said[keys].itertuples(index=False, name=None)) if keys[1:] else said[keys[0]]
        ]
    close(mine["mean"], said["emmean"], ESTIMATE * max(1.0, said["emmean"].abs().max()))
    np.testing.assert_allclose(mine["se"], said["SE"], rtol=SE)
    close(mine["df"], said["df"], DF)
    close(mine["ci_low"], said["lower.CL"], SE * said["lower.CL"].abs().max())
    close(mine["ci_high"], said["upper.CL"], SE * said["upper.CL"].abs().max())


def assert_pairs(fit: mixed.Fit, term: str, said: pd.DataFrame) -> None:
    mine = fit.pairs(term)
    assert list(mine["contrast"]) == list(said["contrast"])
    close(mine["estimate"], said["estimate"], ESTIMATE * max(1.0, said["estimate"].abs().max()))
    np.testing.assert_allclose(mine["se"], said["SE"], rtol=SE)
    np.testing.assert_allclose(mine["t"], said["t.ratio"], rtol=SE)
    close(mine["df"], said["df"], DF)
    close(mine["p"], said["p.value"], P)
    close(mine["ci_low"], said["lower.CL"], SE * said["lower.CL"].abs().max())
    close(mine["ci_high"], said["upper.CL"], SE * said["upper.CL"].abs().max())


def close(mine: "pd.Series[Any]", said: "pd.Series[Any]", tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(mine), np.asarray(said), rtol=0, atol=tolerance)


def as_named(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """A table from make.R with the names R shows."""
    names = {"Std..Error": "Std. Error", "Pr...t..": "Pr(>|t|)", "F.value": "F value", "Pr..F.": "Pr(>F)"}
    return pd.DataFrame(columns).rename(columns=names)


# --- R's numbers


@pytest.mark.parametrize("name", REFS)
def test_a_reference_fit_is_rs(name: str) -> None:
    fit, said = reference(name), REFS[name]
    assert fit.converged
    assert fit.criterion == pytest.approx(said["reml_crit"], abs=CRITERION)
    assert fit.loglik == -fit.criterion / 2
    assert fit.singular == said["isSingular"]
    assert_components(fit.components, pd.DataFrame(said["varcorr"]))
    assert_coefficients(fit.fixed, pd.DataFrame(said["kenward_roger"]))
    assert_coefficients(fit.satterthwaite, pd.DataFrame(said["satterthwaite"]))
    if said["anova_kr"]:
        assert_anova(fit.anova, pd.DataFrame(said["anova_kr"]))
        assert_anova(fit.satterthwaite_anova, pd.DataFrame(said["anova_satt"]))


@pytest.mark.parametrize("name", [name for name in REFS if REFS[name]["emmeans"]])
def test_marginal_means_and_tukey_pairs_are_emmeans(name: str) -> None:
    fit = reference(name)
    for term, said in REFS[name]["emmeans"].items():
        assert_means(fit, "1" if term == "overall" else term, pd.DataFrame(said))
    for term, said in REFS[name]["pairs_tukey"].items():
        assert_pairs(fit, term, pd.DataFrame(said))


@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_fit_is_rs(name: str) -> None:
    frame, said = stored(name)
    fit = mixed.fit(frame, said["fixed"], said["random"], coding="treatment")
    assert fit.converged
    assert fit.criterion == pytest.approx(said["criterion"], abs=CRITERION)
    assert fit.singular == said["singular"]
    assert_components(fit.components, pd.DataFrame(said["components"]))
    assert_coefficients(fit.fixed, as_named(said["kenward_roger"]))
    assert_coefficients(fit.satterthwaite, as_named(said["satterthwaite"]))
    assert_anova(fit.anova, as_named(said["anova"]))
    assert_anova(fit.satterthwaite_anova, as_named(said["satterthwaite_anova"]))


@pytest.mark.parametrize("name", SIMULATED)
def test_sum_coding_is_the_default_and_is_rs_contr_sum(name: str) -> None:
    frame, said = stored(name)
    fit = mixed.fit(frame, said["fixed"], said["random"])
    assert fit.criterion == pytest.approx(said["sum_criterion"], abs=CRITERION)
    for mine, column in (("estimate", "Estimate"), ("se", "Std..Error"), ("df", "df")):
        np.testing.assert_allclose(
            np.sort(fit.fixed[mine]), np.sort(said["sum_kenward_roger"][column]), rtol=SE, atol=ESTIMATE
        )


@pytest.mark.parametrize("name", [name for name in SIMULATED if "means" in stored(name)[1]])
def test_means_and_pairs_of_simulated_fits_are_emmeans(name: str) -> None:
    frame, said = stored(name)
    fit = mixed.fit(frame, said["fixed"], said["random"])
    for term in said["means"]:
        assert_means(fit, term, pd.DataFrame(said["means"][term]))
        if ":" not in term:  # R lists the pairs of two categories in another order
            assert_pairs(fit, term, pd.DataFrame(said["pairs"][term]))


def test_a_variance_of_zero_gives_the_mode_9_df_by_kenward_roger_and_49_by_satterthwaite() -> None:
    fit = reference("design_singular")
    assert fit.singular
    assert fit.components["prompt:mode"] == 0
    assert fit.anova.set_index("term").loc["mode", "den_df"] == pytest.approx(9, abs=DF)
    assert fit.satterthwaite_anova.set_index("term").loc["mode", "den_df"] == pytest.approx(49, abs=DF)
    by_mode = fit.fixed.set_index("term").loc["mode[T.visible]"]
    assert by_mode["satterthwaite_df"] == pytest.approx(49, abs=DF)


def test_on_a_complete_design_the_f_is_that_of_prompt_means() -> None:
    fit = mixed.fit(dataset("design_balanced"), "y ~ category + mode", DEFAULT)
    category, mode = fit.anova.itertuples(index=False)
    assert (category.F, category.den_df) == pytest.approx((4.157769, 5), abs=1e-4)
    assert (mode.F, mode.den_df) == pytest.approx((10.3061, 9), abs=1e-4)


def test_point_estimates_are_those_of_statsmodels() -> None:
    frame = dataset("sleepstudy")
    theirs = smf.mixedlm("Reaction ~ Days", frame, groups="Subject", re_formula="~Days").fit(reml=True)
    ours = mixed.fit(frame, "Reaction ~ Days", ["Days|Subject"])
    np.testing.assert_allclose(ours.fixed["estimate"], theirs.fe_params, rtol=1e-8)
    assert ours.loglik == pytest.approx(theirs.llf, abs=1e-6)
    assert ours.components["Residual"] == pytest.approx(theirs.scale, rel=1e-4)
    assert ours.components["Subject|Days"] == pytest.approx(theirs.cov_re.loc["Days", "Days"], rel=1e-3)
