"""statsmodels' MixedLM beside the package's own fit: the same optimum, and what each says where they part."""

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tempocube.dataset.scenarios import Design, Effects, frame
from tempocube.errors import BadInput
from tempocube.stats import mixed, mixedlm

HERE = Path(__file__).parent / "reference"
DEFAULT = ["1|prompt", "1|prompt:seed", "1|prompt:mode"]


def stored(name: str) -> tuple[pd.DataFrame, str, list[str]]:
    """A frame simulated in R, its formula and its random terms."""
    said = json.loads((HERE / f"mixed_{name}.json").read_text("utf-8"))
    return pd.DataFrame(said["frame"]), said["fixed"], said["random"]


def gaps() -> pd.DataFrame:
    return frame(Design(), Effects(missing=0.15), seed=3)


@pytest.mark.parametrize("name", ["crossed", "nested", "missing"])
def test_both_find_one_optimum_and_the_same_variances(name: str) -> None:
    made, formula, random = stored(name)
    ours, theirs = mixed.fit(made, formula, random), mixedlm.fit(made, formula, random)
    assert theirs.loglik == pytest.approx(ours.loglik, abs=1e-4)
    assert theirs.components == pytest.approx(ours.components, rel=0.01)
    assert list(theirs.fixed["term"]) == list(ours.fixed["term"])
    np.testing.assert_allclose(theirs.fixed["estimate"], ours.fixed["estimate"], rtol=1e-3, atol=1e-6)
    assert mixedlm.crosscheck(ours, made, formula, random).same


def test_the_coding_is_that_of_the_own_fit() -> None:
    made, formula, random = stored("missing")
    ours = mixed.fit(made, formula, random, coding="treatment")
    assert mixedlm.crosscheck(ours, made, formula, random, coding="treatment").same


def test_a_singular_fit_is_reached_by_an_optimiser_that_is_not_the_default() -> None:
    made = pd.read_csv(HERE / "design_singular.csv")
    theirs = mixedlm.fit(made, "y ~ category + mode", DEFAULT)
    assert theirs.tried["default"] < theirs.loglik - 0.1
    assert theirs.optimiser != "default"
    assert any("boundary" in text for text in theirs.told)
    found = mixedlm.crosscheck(
        mixed.fit(made, "y ~ category + mode", DEFAULT), made, "y ~ category + mode", DEFAULT
    )
    assert found.same
    assert "finds the same optimum" in found.sentence


def test_a_fit_that_stops_short_is_told_by_how_much() -> None:
    made = gaps()
    ours = mixed.fit(made, "downweighting ~ mode", DEFAULT)
    short = replace(ours, criterion=ours.criterion + 1.0)
    found = mixedlm.crosscheck(short, made, "downweighting ~ mode", DEFAULT)
    assert found.ours_is_short
    assert found.loglik == pytest.approx(0.5, abs=1e-3)
    assert "0.5 higher: this is not the optimum" in found.sentence
    other = mixedlm.crosscheck(
        replace(ours, criterion=ours.criterion - 1.0), made, "downweighting ~ mode", DEFAULT
    )
    assert not other.same
    assert not other.ours_is_short
    assert "0.5 lower" in other.sentence


def test_its_errors_are_labelled_and_narrower_than_kenward_rogers() -> None:
    made = gaps().query("prompt in ['p0', 'p2', 'p4', 'p6']")
    ours = mixed.fit(made, "downweighting ~ 1", ["1|prompt"])
    theirs = mixedlm.fit(made, "downweighting ~ 1", ["1|prompt"])
    assert theirs.errors == "Wald z: too narrow with few prompts"
    width = [float(fit.fixed.loc[0, "ci_high"] - fit.fixed.loc[0, "ci_low"]) for fit in (ours, theirs)]
    assert width[1] < 0.8 * width[0]


def test_the_unit_of_the_response_changes_nothing_but_its_unit() -> None:
    made = gaps()
    one = mixedlm.fit(made, "downweighting ~ mode", DEFAULT)
    larger = made.assign(downweighting=1e6 * made["downweighting"])
    other = mixedlm.fit(larger, "downweighting ~ mode", DEFAULT)
    assert other.components["prompt"] == pytest.approx(1e12 * one.components["prompt"], rel=1e-6)
    assert other.loglik == pytest.approx(one.loglik - (len(made) - 2) * np.log(1e6), abs=1e-6)


@pytest.mark.parametrize("power", [-150, 150])
def test_a_response_of_any_size_is_compared(power: int) -> None:
    made = gaps()
    made["downweighting"] *= 10.0**power
    ours = mixed.fit(made, "downweighting ~ mode", DEFAULT)
    assert mixedlm.crosscheck(ours, made, "downweighting ~ mode", DEFAULT).same


def test_what_statsmodels_warns_of_is_text_and_no_warning() -> None:
    made = pd.read_csv(HERE / "design_singular.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mixedlm.fit(made, "y ~ mode", DEFAULT).told


def test_names_of_the_caller_are_not_looked_up() -> None:
    made = gaps().rename(columns={"mode": "C", "prompt": "Q"})
    assert mixedlm.fit(made, "downweighting ~ C", ["1|Q", "1|Q:seed"]).components["Q"] > 0


def test_it_is_quick_enough_for_the_gate() -> None:
    made = gaps()
    ours = mixed.fit(made, "downweighting ~ mode", DEFAULT)
    began = time.perf_counter()
    mixedlm.crosscheck(ours, made, "downweighting ~ mode", DEFAULT)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("random", "says"),
    [
        (["Days|Subject"], "intercepts only, such as 1|Subject; mixed.fit takes slopes"),
        (["1|Subjects"], "did you mean 'Subject'"),
    ],
)
def test_what_it_cannot_express_is_refused_in_one_line(random: list[str], says: str) -> None:
    made = pd.read_csv(HERE / "sleepstudy.csv")
    with pytest.raises(BadInput) as refused:
        mixedlm.fit(made, "Reaction ~ Days", random)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_copies_are_refused_before_they_give_a_wrong_error() -> None:
    made = pd.read_csv(HERE / "design_deterministic.csv")
    with pytest.raises(BadInput, match="bit-identical replicates"):
        mixedlm.fit(made, "y ~ mode", ["1|prompt"])
