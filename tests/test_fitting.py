"""Singularity and the optimum of the model, as the gate tells them, and what follows where they are not."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tempocube.dataset.scenarios import Design, Effects, frame
from tempocube.stats import questions_design as design
from tempocube.stats import questions_modes as contrasts
from tempocube.stats import questions_prompts as prompts
from tempocube.stats.answers import answer
from tempocube.stats.fitting import judge_fit
from tempocube.stats.routes import Route, route
from tempocube.stats.study import Study, read

HERE = Path(__file__).parent / "reference"


def study(effects: Effects, **shape: Any) -> Study:
    return read(frame(Design(**shape), effects, seed=3))


def told(of: Study) -> dict[str, tuple[str, str]]:
    _, checks = judge_fit(of, route(of, seeds_act=False))
    return {check.check: (check.status, check.detail) for check in checks}


def test_a_whole_study_needs_no_model_and_says_so() -> None:
    found = told(study(Effects()))
    assert found == {"singularity": ("pass", "no variance had to be estimated: prompt means need no model")}


def test_a_study_with_gaps_has_its_fit_checked_by_a_second_program() -> None:
    found = told(study(Effects(missing=0.15)))
    assert found["singularity"] == ("pass", "no variance is at 0")
    status, detail = found["mixed model"]
    assert status == "pass"
    assert "Hessian positive definite" in detail
    assert "statsmodels MixedLM finds the same optimum" in detail


def test_a_singular_fit_is_kept_and_named() -> None:
    said = json.loads((HERE / "mixed_singular.json").read_text("utf-8"))
    found = told(read(pd.DataFrame(said["frame"]), "y"))
    assert found["singularity"][0] == "suspect"
    assert found["singularity"][1].startswith("singular: prompt:mode is 0; kept in the model")
    assert "MixedLM finds the same optimum" in found["mixed model"][1]


def test_more_rows_than_a_model_takes_leave_prompt_means() -> None:
    found = told(study(Effects(missing=0.01), seeds=60))
    assert found["mixed model"][0] == "suspect"
    assert "more than the 1000" in found["mixed model"][1]
    assert "prompt means" in found["mixed model"][1]


def test_a_fit_that_is_doubted_is_not_used_for_any_number() -> None:
    of = study(Effects(missing=0.15))
    doubted = Route(reml=True, crossed=False, why="experiments are missing", doubt="not the optimum")
    found = [
        prompts.downweighting(of, doubted),
        design.category(of, doubted),
        contrasts.modes(of, doubted, 0.1, None, 0),
    ]
    for each in found:
        assert "Kenward-Roger" not in each.method
        assert "t-test" in each.method or "F-test" in each.method
        assert "not the optimum" in each.method
    assert found[0].df == 9
    assert design.prompt_variance(of, doubted).details["components"] == "not the optimum"


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_the_gate_lists_singularity_in_every_report(missing: float) -> None:
    checks = answer(frame(Design(), Effects(missing=missing), seed=3)).gate
    assert [check.check for check in checks].count("singularity") == 1
