"""The four expected findings: each from numbers that speak for it, and none from numbers that do not."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tempocube.dataset.scenarios import Design, Effects, frame
from tempocube.stats.answers import Answers, answer

DESIGN = Design()


def study(cross: float, kl: float, jaccard: float = 1.0, correlation: float = 0.9, **effects: Any) -> Answers:
    """Siblings that get `cross` of a context key's attention, modes that are `kl` apart."""
    random = np.random.default_rng(4)
    made = frame(DESIGN, Effects(prompt_mode_sd=0.02, residual_sd=0.03, **effects), seed=3)
    visible = made["mode"] == "visible"
    made["cross_parallel"] = np.where(visible, math.log(cross) + random.normal(0, 0.05, len(made)), np.nan)
    pairs = made.loc[visible, ["prompt", "category", "seed"]].reset_index(drop=True)
    scatter = 0.5 + pairs["prompt"].str[1:].astype(int) / 9  # one, on average over prompts
    pairs = pairs.assign(
        kl=kl * scatter,
        kl_max=2 * kl,
        jaccard_10=np.clip(jaccard * (1 - 0.01 * random.random(len(pairs))), 0, 1),
        attention_correlation=correlation,
        identical=False,
        same_sets=True,
    )
    return answer(made, between=pairs)


@pytest.mark.parametrize(
    ("letter", "cross", "kl"), [("A", 0.01, 0.001), ("B", 0.5, 0.001), ("C", 1.0, 0.2), ("D", 0.01, 0.2)]
)
def test_each_finding_has_its_letter(letter: str, cross: float, kl: float) -> None:
    found = study(cross, kl).scenario
    assert found.verdict == letter
    assert found.sentence.startswith(f"Scenario {letter}: ")
    assert found.evidence["logits"]["kl"] == pytest.approx(kl, rel=0.2)


def test_other_tokens_are_none_of_the_four() -> None:
    found = study(1.0, 0.2, jaccard=0.3).scenario
    assert found.verdict == "undetermined"
    assert "the most probable tokens differ" in found.sentence


def test_different_logits_and_the_same_attention_do_not_say() -> None:
    assert study(0.01, 0.2, correlation=0.9999).scenario.verdict == "undetermined"


def test_numbers_at_a_bound_do_not_say() -> None:
    assert study(0.1, 0.001).scenario.verdict == "undetermined"
    assert study(1.0, 0.01).scenario.verdict == "undetermined"


def test_a_failed_treatment_leaves_it_undetermined_and_recommends_no_mode() -> None:
    made = frame(DESIGN, Effects(), seed=3)
    made.attrs["checks"] = {"sight": {"pass": 99, "fail": 1}}
    found = answer(made).scenario
    assert found.verdict == "undetermined"
    assert "'sight' failed in 1 experiment." in found.sentence
    assert found.default_mode is None


def test_equivalent_modes_recommend_the_simpler_one_with_the_bound() -> None:
    found = study(0.01, 0.001).scenario
    assert found.default_mode == "isolated"
    assert "equivalent within the bound" in found.recommendation
    assert "90 % CI" in found.recommendation
    assert "0.0953" in found.recommendation


def test_modes_that_differ_are_both_to_be_told() -> None:
    found = study(1.0, 0.2, mode={"visible": 0.4}).scenario
    assert "report visible beside it" in found.recommendation


def test_a_study_that_shows_neither_keeps_both_modes() -> None:
    made = frame(DESIGN, Effects(prompt_mode_sd=0.3), seed=3)
    assert answer(made).scenario.recommendation.startswith("Keep both modes")


def test_a_difference_that_holm_takes_back_does_not_decide_about_modes() -> None:
    made = frame(DESIGN, Effects(prompt_mode_sd=0.3), seed=3)
    by_mode = made.pivot_table(index="prompt", columns="mode", values="downweighting")
    apart = by_mode["visible"] - by_mode["isolated"]
    shift = 2.6 * apart.std() / math.sqrt(len(apart)) - apart.mean()  # t(9) = 2.6, p = 0.03
    made["downweighting"] += np.where(made["mode"] == "visible", shift, 0.0)
    found = answer(made)
    assert found.answers["modes"].p == pytest.approx(0.029, abs=0.001)
    assert found.answers["modes"].sentence.endswith(", so that with all of them the difference is not shown.")
    assert found.scenario.recommendation.startswith("Keep both modes")


def test_a_response_that_is_no_attention_has_no_scenario_and_no_default_mode() -> None:
    found = answer(frame(DESIGN, Effects(), seed=3).rename(columns={"downweighting": "rt"}), "rt").scenario
    assert found.sentence == "Undetermined: it is about attention, not about rt."
    assert found.default_mode is None


def test_without_a_comparison_nothing_is_determined() -> None:
    made = pd.DataFrame(frame(DESIGN, Effects(), seed=3))
    assert answer(made).scenario.verdict == "undetermined"
