"""The gate: what must hold before anything is tested, and the one line for a frame that cannot be used."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tempocube.dataset.scenarios import SCENARIOS, Design, Effects, frame
from tempocube.errors import BadInput
from tempocube.stats.gate import ANSWERS, Gate, judge
from tempocube.stats.study import read


def gate(made: pd.DataFrame, between: pd.DataFrame | None = None) -> Gate:
    return judge(read(made), between)


def status(of: Gate) -> dict[str, str]:
    return {check.check: check.status for check in of.checks}


def detail(of: Gate, name: str) -> str:
    return next(check.detail for check in of.checks if check.check == name)


def simulated(effects: Effects | None = None, **design: Any) -> pd.DataFrame:
    return frame(Design(**design), effects or Effects(), seed=3)


def test_a_whole_study_passes_and_withholds_nothing() -> None:
    made = simulated()
    made.attrs["checks"] = {"isolation": {"pass": 50, "fail": 0}, "sight": {"pass": 50}}
    found = gate(made)
    assert set(status(found).values()) == {"pass"}
    assert found.withheld == {}
    assert "100 of 100" in detail(found, "seeds")


def test_copied_seeds_are_one() -> None:
    found = gate(simulated(SCENARIOS["D"]))
    assert found.study.y.shape == (10, 1, 2)
    assert "seeds are copies, n is 10 not 50" in detail(found, "seeds")
    assert "20 of 100" in detail(found, "seeds")


def test_copies_are_found_without_digests() -> None:
    found = gate(simulated(SCENARIOS["D"]).drop(columns="path_digest"))
    assert found.study.copies
    assert "20 of 100" in detail(found, "seeds")


def test_seeds_that_differ_by_rounding_alone_are_copies() -> None:
    made = simulated(SCENARIOS["D"]).drop(columns="path_digest")
    made["downweighting"] += np.random.default_rng(1).normal(0, 1e-6, len(made))
    assert gate(made).study.copies


def test_seeds_that_share_a_path_now_and_then_are_no_copies() -> None:
    made = simulated()
    made.loc[made["seed"] == 123, "path_digest"] = made.loc[made["seed"] == 42, "path_digest"].to_numpy()
    found = gate(made)
    assert not found.study.copies
    assert "80 of 100" in detail(found, "seeds")


def test_identical_modes_are_suspect_and_nothing_is_said_of_them() -> None:
    found = gate(simulated(SCENARIOS["C"]))
    assert found.identical
    assert status(found)["modes"] == "suspect"
    assert set(found.withheld) == {"modes", "cross_parallel", "logits"}
    assert all("SUSPECT" in reason for reason in found.withheld.values())
    assert not any("confirmed" in check.detail for check in found.checks)


def test_the_comparison_of_modes_decides_whether_they_are_identical() -> None:
    made = simulated()
    pairs = made.loc[made["mode"] == "visible", ["prompt", "category", "seed"]].assign(identical=True)
    assert gate(made, pairs).identical
    pairs.loc[pairs.index[0], "identical"] = False
    assert not gate(made, pairs).identical


def test_pairs_without_a_parallel_set_must_be_identical_and_prove_nothing() -> None:
    made = simulated().assign(parallel_sets=4)
    made.loc[made["prompt"] == "p0", "parallel_sets"] = 0
    pairs = made.loc[made["mode"] == "visible", ["prompt", "category", "seed"]]
    pairs = pairs.assign(identical=pairs["prompt"] == "p0")
    assert detail(gate(made, pairs), "modes").endswith("differ in 45 of 45 pairs")


def test_pairs_without_a_parallel_set_that_differ_are_suspect() -> None:
    made = simulated().assign(parallel_sets=4)
    made.loc[made["prompt"] == "p0", "parallel_sets"] = 0
    pairs = made.loc[made["mode"] == "visible", ["prompt", "category", "seed"]].assign(identical=False)
    found = gate(made, pairs)
    assert status(found)["modes"] == "suspect"
    assert detail(found, "modes").endswith("also in 5 without a parallel set, which must be identical")


@pytest.mark.parametrize("control", ["clone", "repeat", "no_mask"])
def test_no_control_cube_is_data(control: str) -> None:
    made = simulated()
    made.attrs["control"] = control
    found = gate(made)
    assert set(found.withheld) == set(ANSWERS)
    assert control in detail(found, "data")
    assert found.passed == (control != "no_mask")


def test_a_failed_mask_withholds_the_answers_about_modes_only() -> None:
    made = simulated()
    made.attrs["checks"] = {"isolation": {"pass": 49, "fail": 1}, "finite": {"pass": 100, "fail": 0}}
    found = gate(made)
    assert not found.passed
    assert set(found.withheld) == {"modes", "cross_parallel", "logits"}


def test_any_other_failed_check_withholds_everything() -> None:
    made = simulated()
    made.attrs["checks"] = {"positions": {"pass": 99, "fail": 1}}
    assert set(gate(made).withheld) == set(ANSWERS)


def test_a_check_that_applies_nowhere_does_not_count_as_one_that_holds() -> None:
    made = simulated()
    made.attrs["checks"] = {"isolation": {"pass": 50, "fail": 0}, "width": {"pass": 0, "fail": 0}}
    assert detail(gate(made), "treatment") == "1 of 2 checks holds, 1 does not apply"


def test_what_was_imported_is_not_taken_for_checked_and_modes_are_withheld() -> None:
    made = simulated()
    made.attrs["checks"] = {"finite": {"pass": 100, "fail": 0}, "isolation": {"pass": 0, "fail": 0}}
    made.attrs["imported"] = {"from": "old", "files": [], "missing": []}
    found = gate(made)
    assert status(found)["treatment"] == "suspect"
    assert detail(found, "treatment") == "imported from old, where nobody looked at isolation"
    assert {"modes", "cross_parallel"} <= found.withheld.keys()
    assert "downweighting" not in found.withheld


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        (None, "the frame came without treatment checks: none was verified"),
        ({"width": {"pass": 0, "fail": 0}}, "none of 1 check applies to any experiment"),
    ],
)
def test_where_nothing_was_verified_the_treatment_is_suspect(checks: Any, says: str) -> None:
    made = simulated()
    made.attrs |= {"cells": {"done": 100}, "checks": checks}
    found = gate(made)
    assert status(found)["treatment"] == "suspect"
    assert detail(found, "treatment").startswith(says)


def test_every_check_has_its_name_and_a_sentence_also_when_it_passes() -> None:
    found = gate(simulated())
    names = ["data", "treatment", "parallel sets", "defined", "seeds", "scale", "modes"]
    assert [check.check for check in found.checks] == [*names, "completeness", "prompts"]
    assert all(len(check.detail) > 10 for check in found.checks)


def test_seeds_that_vary_next_to_nothing_are_out_of_scale() -> None:
    made = simulated(SCENARIOS["D"])
    made["path_digest"] = [f"{i}" for i in range(len(made))]
    made["downweighting"] += np.random.default_rng(1).normal(0, 1e-6, len(made))
    found = gate(made)
    assert status(found)["seeds"] == "pass"
    assert status(found)["scale"] == "suspect"
    assert found.study.copies
    assert "less than 0.001 SD between prompts" in found.withheld["seeds"]
    assert "SD between prompts" in detail(gate(simulated()), "scale")


def test_without_parallel_sets_there_is_no_question() -> None:
    made = simulated().assign(parallel_sets=0)
    found = gate(made)
    assert set(found.withheld) == set(ANSWERS)
    assert "no experiment has a parallel set" in detail(found, "parallel sets")


def test_too_few_parallel_sets_are_told() -> None:
    made = simulated().assign(parallel_sets=1)
    found = gate(made)
    assert "too few parallel sets" in found.withheld["downweighting"]
    assert "logits" not in found.withheld


def test_a_prompt_that_is_mostly_undefined_is_left_out_by_name() -> None:
    made = simulated().assign(reason="")
    gone = (made["prompt"] == "p4") & (made["seed"] == 42)
    made.loc[gone, "downweighting"] = np.nan
    made.loc[gone, "reason"] = "no singleton key"
    found = gate(made)
    assert "p4" not in found.study.prompts
    assert detail(found, "defined") == (
        "left out: p4 (2 of its 10 experiments have no value: no singleton key); "
        "prompts with more than 10 % undefined are left out"
    )


def test_each_prompt_that_is_left_out_has_its_own_reason_and_only_five_are_named() -> None:
    made = simulated().assign(reason="")
    for i in range(7):
        gone = made["prompt"] == f"p{i}"
        gone &= made["seed"].isin([42, 123]) if i else True
        made.loc[gone, "downweighting"] = np.nan
        made.loc[gone, "reason"] = f"why {i}"
    told = detail(gate(made), "defined")
    assert told.startswith("left out: p0 (10 of its 10 experiments have no value: why 0), p1 (4 of its 10 ")
    assert "p4 (4 of its 10 experiments have no value: why 4) and 2 more; prompts with" in told
    assert "why 5" not in told


def test_one_of_anything_has_its_verb() -> None:
    gap = simulated(Effects(lost=((2, 1, 1),)))
    assert detail(gate(gap), "completeness").startswith("1 of 100 cells is missing")
    made = simulated().assign(parallel_sets=0)
    made.loc[made["prompt"] == "p0", "parallel_sets"] = 4
    assert detail(gate(made), "parallel sets").startswith("too few parallel sets: 1 of 10 prompts has ")


def test_missing_cells_lead_to_the_mixed_model() -> None:
    found = gate(simulated(Effects(missing=0.15)))
    assert "15 of 100 cells are missing" in detail(found, "completeness")


def test_a_prompt_that_lacks_a_mode_is_named() -> None:
    found = gate(simulated(Effects(lost=((2, None, 1),))))
    assert detail(found, "completeness").endswith("not in the contrast of modes: p2")


def test_one_prompt_is_no_sample() -> None:
    found = gate(simulated(categories=(1,)))
    assert not found.passed
    assert set(found.withheld) == set(ANSWERS)


def test_one_prompt_in_a_category_forbids_its_test_only() -> None:
    found = gate(simulated(categories=(2, 2, 1, 2)))
    assert set(found.withheld) == {"category"}
    assert "one prompt only in technical" in found.withheld["category"]


def test_five_prompts_are_too_few_for_categories() -> None:
    assert "5 prompts" in gate(simulated(categories=(3, 2))).withheld["category"]


def test_a_mode_without_experiments_is_named() -> None:
    found = gate(simulated(modes=("isolated",)))
    assert found.withheld["modes"] == "there is no experiment in mode visible"


def spoilt(name: str) -> pd.DataFrame:
    made = simulated()
    text = made["downweighting"].astype(object)
    text[7] = "high"
    changed = {
        "column": made.drop(columns="category"),
        "columns": made.drop(columns=["category", "seed"]),
        "numbers as text": made.assign(downweighting=["578.6", *["1"] * 6, "fast", *["2"] * 92]),
        "swept twice": pd.concat([made.assign(threshold=0.1), made.assign(threshold=0.2)]),
        "response": made.rename(columns={"downweighting": "downweight"}),
        "text": made.assign(downweighting=text),
        "infinite": made.assign(downweighting=-np.inf),
        "empty": made.iloc[:0],
        "unlabelled": made.assign(prompt=made["prompt"].where(made["prompt"] != "p3")),
        "twice": pd.concat([made, made.iloc[:1]]),
        "two categories": made.assign(category=made["category"].where(made["seed"] != 42, "other")),
        "truth": made.assign(downweighting=True),
        "nan as text": made.assign(downweighting="nan"),
        "objects": made.assign(downweighting=made["downweighting"].astype(object)),
    }
    return changed[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("column", "no column 'category'"),
        ("columns", "no columns 'category', 'seed': there are prompt, "),
        ("numbers as text", "row 8 of column 'downweighting' holds 'fast', which is no number"),
        ("swept twice", "has 2 rows: choose one value of threshold first"),
        ("response", "did you mean 'downweight'?"),
        ("text", "'high', which is no number"),
        ("infinite", "infinite in 100 of 100 rows"),
        ("empty", "no rows"),
        ("unlabelled", "'prompt' is missing in 10 of 100 rows"),
        ("twice", "prompt p0, seed 42, mode isolated has 2 rows: an experiment has one$"),
        ("two categories", "is in several categories"),
        ("truth", "holds True, which is no number"),
        ("nan as text", "holds 'nan', which is no number"),
        ("objects", "is of type object: convert it with pandas.to_numeric"),
    ],
)
def test_a_frame_that_cannot_be_used_is_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(BadInput, match=says.replace("?", "\\?")) as refused:
        read(spoilt(name))
    assert "\n" not in str(refused.value)


def test_the_frame_is_left_as_it_was() -> None:
    made = simulated()
    before = made.copy()
    gate(made)
    pd.testing.assert_frame_equal(made, before)


def test_a_lost_mode_does_not_shift_its_prompt() -> None:
    effects = Effects(mode={"visible": 5.0}, prompt_sd=0, prompt_seed_sd=0, prompt_mode_sd=0, residual_sd=0)
    made = read(simulated(replace(effects, lost=((2, None, 1),))))
    assert made.means == pytest.approx(np.full(10, 2.5))
