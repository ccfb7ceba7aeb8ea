"""Control cubes, really captured: what each shows is told in a sentence, and no answer takes it for data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from runs import grid
from tempocube.capture.engine import capture
from tempocube.capture.model import Model, embedded_path, load
from tempocube.capture.wanted import Wanted
from tempocube.dataset.scenarios import Design, Effects, frame
from tempocube.dataset.store import Driver
from tempocube.stats import measures
from tempocube.stats.answers import Answers, answer
from tempocube.stats.gate import ANSWERS

Capture = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(str(embedded_path()))


@pytest.fixture
def captured(model: Model, tmp_path: Path) -> Capture:
    """Runs a grid with the embedded model, and measures its cube."""

    def made(**options: Any) -> pd.DataFrame:
        asked = grid(**{"threshold": 0.1, "max_tokens": 10, **options})
        longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
        wanted = Wanted.of(asked.capture, asked.storage, model.facts)
        with Driver(tmp_path / "cube.zarr", asked, model.facts, longest) as driver:
            tasks = driver.todo()
            capture(model, [task.cell for task in tasks], [task.writer() for task in tasks], wanted)
        return measures.experiments(tmp_path / "cube.zarr")

    return made


def told(made: pd.DataFrame) -> dict[str, Any]:
    """What the report says of a control, all answers being withheld."""
    found = answer(made)
    assert all(found.answers[key].p is None and found.answers[key].not_tested for key in ANSWERS)
    said: dict[str, Any] = found.to_dict()["control"]
    return said


def frame_of(**attrs: Any) -> pd.DataFrame:
    made = frame(Design(), Effects(), seed=3)
    made.attrs.update(attrs)
    return made


def test_clones_are_treated_alike_in_a_real_capture(captured: Capture) -> None:
    said = told(captured(control="clone"))
    assert said["control"] == "clone"
    assert said["seen"] is True
    assert "treated alike" in said["sentence"]
    assert 0 <= said["numbers"]["sibling_spread"]["isolated"] <= 1e-4  # stored without loss
    assert said["numbers"]["cross_parallel"] > 0


def test_packed_clones_are_alike_up_to_what_storing_them_rounds(captured: Capture) -> None:
    packed = {"attention": "log16", "logits": "log16", "activations": "float32"}
    said = told(captured(control="clone", storage=packed))
    assert said["seen"] is True
    assert said["numbers"]["sibling_spread"]["isolated"] <= 1 / 128


def test_siblings_that_are_not_copies_are_not_treated_alike(captured: Capture) -> None:
    made = captured()
    assert answer(made).control is None
    made.attrs["control"] = "clone"
    said = told(made)
    assert said["seen"] is False
    assert "NOT treated alike" in said["sentence"]


def test_a_repeated_capture_tells_the_noise_floor(captured: Capture) -> None:
    said = told(captured(control="repeat"))
    assert said["seen"] is True
    assert "two captures of the same experiment differ by at most" in said["sentence"]
    assert "of a weight" in said["sentence"]
    assert said["numbers"]["cells"] == 6
    assert 0 <= said["numbers"]["attention"] < 1e-4


def test_the_checks_see_a_mask_that_is_not_applied(captured: Capture) -> None:
    made = captured(control="no_mask")
    said = told(made)
    failed = made.attrs["checks"]["isolation"]["fail"]
    assert failed > 0
    assert said["seen"] is True
    assert f"the checks see it: isolation is red in {failed} experiment" in said["sentence"]
    assert said["numbers"] == {"red": {"isolation": failed}, "applies_to": failed}
    assert not answer(made).passed


def test_checks_that_do_not_see_it_are_called_broken() -> None:
    blind = {"isolation": {"pass": 50, "fail": 0}}
    said = told(frame_of(control="no_mask", checks=blind))
    assert said["seen"] is False
    assert "NOT seen: the checks are broken" in said["sentence"]


@pytest.mark.parametrize(
    ("control", "says"),
    [
        ("clone", "no column 'sibling_spread'"),
        ("repeat", "no difference between two captures is stored"),
        ("no_mask", "no experiment hides anything"),
        ("other", "nothing is known of this control"),
    ],
)
def test_a_control_that_shows_nothing_says_so(control: str, says: str) -> None:
    said = told(frame_of(control=control))
    assert said["seen"] is None
    assert says in said["sentence"]


# --- controls beside the down-weighting of data


def beside(**columns: Any) -> dict[str, Any]:
    made = frame(Design(), Effects(mean=-0.7), seed=3).assign(**columns)
    details: dict[str, Any] = answer(made).to_dict()["answers"]["downweighting"]["details"]
    return details


def test_placebo_labels_say_in_how_many_prompts_the_effect_is_none_of_theirs() -> None:
    said = beside(placebo_share=0.0, placebo_low=-0.6, placebo_high=0.6)["placebo"]
    means = frame(Design(), Effects(mean=-0.7), seed=3).groupby("prompt")["downweighting"].mean()
    assert said["below"] == int((means < -0.6).sum()) > 0
    assert said["above"] == 0
    assert said["sentence"].startswith(f"In {said['outside']} of 10 prompts it lies outside")


def test_the_single_baseline_is_a_labelled_control_without_p() -> None:
    said = beside(single_baseline=np.log(0.8) + 1e-3 * np.arange(100))["single_baseline"]
    assert said["label"].startswith("control")
    assert said["ratio"] == pytest.approx(0.8 * np.exp(0.0495), rel=1e-6)
    assert said["ratio_ci"][0] < said["ratio"] < said["ratio_ci"][1]
    assert "p" not in said
    assert "in mode single (95 % CI" in said["sentence"]


def test_other_estimands_are_labelled_and_absent_ones_left_out() -> None:
    said = beside(legacy_ratio=0.4 + 1e-3 * np.arange(100), downweighting_per_set=0.1 * np.arange(100))
    assert said["legacy_ratio"]["label"] == "legacy: the formula of earlier code; a sink alone gives 0.35"
    assert said["downweighting_per_set"]["label"].startswith("another estimand")
    assert "placebo" not in said
    assert "single_baseline" not in said


def test_what_is_undefined_everywhere_is_left_out() -> None:
    said = beside(single_baseline=np.nan, placebo_low=np.nan, placebo_high=np.nan)
    assert not {"single_baseline", "placebo"} & set(said)


# --- the noise floor in Q8 and Q10


def compared(noise: dict[str, float], **columns: Any) -> Answers:
    made = frame(Design(), Effects(mode={"visible": -0.2}), seed=3)
    pairs = made.loc[made["mode"] == "visible", ["prompt", "category", "seed"]].reset_index(drop=True)
    random = np.random.default_rng(2)
    pairs = pairs.assign(identical=False, same_sets=True, kl=random.uniform(1e-3, 2e-3, 50)).assign(**columns)
    made.attrs["noise_floor"] = noise
    return answer(made, between=pairs)


def claims(found: Answers) -> dict[str, Any]:
    rows = found.to_dict()["answers"]["modes"]["details"]["levels"]["claims"]
    return {row["level"]: (row["holds"], row["told"]) for row in rows}


def test_modes_agree_down_to_a_level_that_is_told() -> None:
    found = compared({"attention": 1e-4, "kl": 1e-9, "cells": 5}, attention_difference=1e-5)
    assert claims(found) == {
        "L0": (False, "in 0 of 50 pairs"),
        "L1": (True, "in 50 of 50 pairs"),
        "L2": (True, "in 50 of 50 pairs"),
        "L3": (False, "not shown"),
    }
    apart = compared({"attention": 1e-6, "cells": 5}, attention_difference=1e-5)
    assert claims(apart)["L1"] == (False, "in 0 of 50 pairs")


def test_a_noise_floor_that_was_not_measured_is_asked_for() -> None:
    found = compared({}, attention_difference=1e-5)
    assert claims(found)["L1"] == (
        None,
        "not measured: run with --cross-check 0.1 or control: repeat",
    )
    assert "noise floor not measured" in found.answers["logits"].sentence
    assert found.answers["modes"].details["warning"] is None


def test_bounds_within_ten_noise_floors_are_warned_of() -> None:
    quiet = compared({"attention": 1e-6, "kl": 9e-4, "cells": 5})
    assert "noise floor 0.0009 nat" in quiet.answers["logits"].sentence
    assert not quiet.answers["logits"].details["warning"]
    loud = compared({"attention": 1e-2, "kl": 2e-3, "cells": 5})
    assert "less than 10 times the noise floor of 0.002 nat" in loud.answers["logits"].details["warning"]
    # a weight is at most 1, so that its log changes by no less
    assert "the noise floor of 0.01 on the log scale" in loud.answers["modes"].details["warning"]
    assert {warning.split(":")[0] for warning in loud.warnings} >= {"logits", "modes"}


def test_attention_that_correlates_perfectly_between_modes_that_differ_is_too_perfect() -> None:
    found = compared({}, attention_correlation=1.0)
    assert any("logits: r = 1.000000; check your pipeline" in warning for warning in found.warnings)
    assert found.answers["logits"].p is None
    assert compared({}, attention_correlation=0.99).answers["logits"].p is not None


def test_a_storage_rounding_is_no_alarm() -> None:
    found = compared({"attention": 5e-3, "kl": 1e-6, "cells": 5})
    assert found.answers["modes"].details["warning"] is None


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (1e-3, 2e-3, "less than 0.01 nat is shown (one-sided p < 0.001); noise floor"),
        (0.05, 0.1, "more than 0.01 nat is shown (one-sided 95 % lower bound 0.0"),
        (0.0, 0.02, "neither less nor more than 0.01 nat is shown (one-sided p = "),
    ],
)
def test_logits_say_on_which_side_of_the_bound_they_are(low: float, high: float, says: str) -> None:
    kl = np.repeat(np.linspace(low, high, 10), 5)
    found = compared({"kl": 1e-6, "cells": 5}, kl=kl).answers["logits"]
    assert says in found.sentence
    assert "nat (KL of isolated from visible; 95 % upper bound " in found.sentence
    assert ", 10 prompts): " in found.sentence
    assert ("the power to show less was " in found.sentence) == says.startswith("neither")
