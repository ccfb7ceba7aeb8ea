"""Nearly two hundred small studies of known truth, answered: each kind gives its sentence, at the right rate.

Rates have windows of three standard errors or more; seeds are fixed. Most studies have one category, since
Tukey's comparisons of categories are the slowest part of an answer.
"""

import gc
import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from tempocube.dataset.scenarios import Design, Effects, frame
from tempocube.stats.answers import Answers, answer

ONE_CATEGORY = Design(categories=(10,), seeds=2)
HALF = Effects(mean=math.log(0.5))


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """Statsmodels collects garbage at each multiple test, all that other tests have left included."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def answered(effects: Effects, studies: int, design: Design = ONE_CATEGORY) -> list[Answers]:
    return [answer(frame(design, effects, seed), seed=seed) for seed in range(studies)]


def test_studies_without_any_effect_find_one_in_twenty() -> None:
    found = answered(Effects(), 40, Design(categories=(5, 5), seeds=2))
    p = np.array([[one.answers[key].p for key in ("downweighting", "category", "modes")] for one in found])
    assert ((p < 0.05).sum(axis=0) <= 8).all()  # of 40; 9 or more of one question: once in 2,000
    assert 1 <= (p < 0.05).sum() <= 14  # of 120
    assert stats.kstest(p.ravel(), "uniform").pvalue > 0.001
    for one in found:
        told = one.answers["category"]
        shown = told.sentence.startswith("Categories ") and "differ (" in told.sentence
        none = told.sentence.startswith("No category effect was shown (") and " f >= " in told.sentence
        assert (shown, none) == (told.p < 0.05, told.p >= 0.05)


def test_a_planted_ratio_of_one_half_is_told_as_one_half() -> None:
    found = [one.answers["downweighting"] for one in answered(HALF, 40)]
    assert np.exp(np.mean([one.estimate for one in found])) == pytest.approx(0.5, rel=0.045)
    assert sum(one.ci[0] <= math.log(0.5) <= one.ci[1] for one in found) >= 33
    for one in found:
        told = f"Parallel tokens receive {math.exp(one.estimate):#.3g}x the attention of single tokens"
        assert one.sentence.startswith(told)


def test_a_planted_outlier_is_named() -> None:
    found = [one.answers["outliers"] for one in answered(Effects(outlier=(3, 8.0)), 40)]
    named = [one for one in found if "p3" in one.details["flagged"]]
    assert len(named) >= 34
    for one in named:
        odd, verb, _ = one.sentence.partition("differ")
        assert verb
        assert "p3" in odd


def test_seeds_that_are_copies_have_their_sentence_and_no_p_value() -> None:
    for one in answered(Effects(same_seeds=True), 20):
        told = one.answers["seeds"]
        assert "selection is deterministic: seeds are copies, n is 10 not 20" in told.sentence
        assert told.p is None
        assert one.answers["downweighting"].df == 9


def test_modes_that_are_identical_are_suspect_and_have_no_p_value() -> None:
    for one in answered(Effects(same_modes=True), 20):
        told = one.answers["modes"]
        assert "SUSPECT" in told.sentence
        assert told.p is None
        assert one.scenario.verdict == "undetermined"
        assert "confirmed" not in one.to_json()


def test_studies_with_missing_experiments_are_answered_by_the_model() -> None:
    found = answered(Effects(mean=math.log(0.5), missing=0.15), 20)
    for one in found:
        told = one.answers["downweighting"]
        assert "REML with Kenward-Roger df (experiments are missing)" in told.method
        assert told.sentence.startswith("Parallel tokens receive ")
        missing = next(check for check in one.gate if check.check == "completeness")
        assert missing.detail.startswith("6 of 40 cells are missing")
    covered = [ci[0] <= math.log(0.5) <= ci[1] for ci in (one.answers["downweighting"].ci for one in found)]
    assert sum(covered) >= 15
