"""Cubes on disk that have no answer to something: each says why in its sentence, and prints no p-value."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.stats import measures
from tempocube.stats.answers import Answers, answer
from tempocube.stats.gate import ANSWERS

Ask = Callable[..., Answers]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Writes a simulated cube and asks everything of it."""

    def asked(effects: Effects | None = None, **design: Any) -> Answers:
        shape = Design(**{"steps": 6, "seeds": 2, "layers": 2, "heads": 3, **design})
        cube(shape, effects or Effects(), tmp_path / "cube.zarr", seed=2)
        read = open_cube(tmp_path / "cube.zarr")
        frame, pairs = measures.experiments(read), measures.between(read)
        return answer(frame, between=pairs, maps=measures.maps(read))

    return asked


def walked(told: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested report, with the key it stands under."""
    if isinstance(told, dict):
        for key, value in told.items():
            yield from walked(value, key)
    elif isinstance(told, list):
        for value in told:
            yield from walked(value, name)
    else:
        yield name, told


def chances(told: Any) -> list[tuple[str, Any]]:
    """Whatever looks like a p-value."""
    return [
        (name, value)
        for name, value in walked(told)
        if value is not None and (name in ("p", "q", "label_p") or name.startswith(("p_", "p-")))
    ]


def no_p(found: Answers, *keys: str) -> None:
    told = found.to_dict()["answers"]
    for key in keys:
        assert chances(told[key]) == [], key
        assert told[key]["not_tested"], key
        assert " p = " not in told[key]["sentence"]


def answered(found: Answers, *keys: str) -> None:
    for key in keys:
        assert found.answers[key].not_tested is None, key


def detail(found: Answers, name: str) -> str:
    return next(check.detail for check in found.gate if check.check == name)


def test_the_walk_sees_every_p_of_a_tested_answer(ask: Ask) -> None:
    told = ask().to_dict()["answers"]
    assert {"p", "p_holm"} <= {name for name, _ in chances(told["modes"])}
    assert {"q", "p_max_t"} <= {name for name, _ in chances(told["maps"])}


def test_seeds_that_are_copies_have_a_sentence_and_no_p(ask: Ask) -> None:
    found = ask(Effects(same_seeds=True))
    no_p(found, "seeds")
    assert "selection is deterministic: seeds are copies, n is 10 not 20" in found.answers["seeds"].sentence
    answered(found, *(key for key in ANSWERS if key != "seeds"))


def test_modes_that_are_copies_are_suspect_and_nothing_is_said_of_them(ask: Ask) -> None:
    found = ask(Effects(same_modes=True))
    no_p(found, "modes", "cross_parallel", "logits")
    assert "SUSPECT: isolated and visible agree to 1e-5 in all 20 pairs" in found.answers["modes"].sentence
    assert found.scenario.verdict == "undetermined"
    assert found.scenario.default_mode is None
    assert "confirmed" not in found.to_json()
    assert detail(found, "treatment") == "4 of 8 checks hold, 4 do not apply"
    answered(found, "downweighting", "category", "seeds")


def test_without_parallel_sets_there_is_no_p_anywhere(ask: Ask) -> None:
    found = ask(wide=0)
    no_p(found, *ANSWERS)
    assert chances(found.to_dict()) == []
    assert "no experiment has a parallel set" in found.answers["downweighting"].sentence
    assert detail(found, "modes").startswith("no pair of isolated and visible has a parallel set")
    assert not found.passed


def test_of_one_prompt_there_is_no_p_anywhere(ask: Ask) -> None:
    found = ask(categories=(1,))
    no_p(found, *ANSWERS)
    assert chances(found.to_dict()) == []
    assert "one prompt" in found.answers["downweighting"].sentence


def test_one_prompt_in_a_category_is_not_tested_for_categories_only(ask: Ask) -> None:
    found = ask(categories=(2, 2, 1, 2))
    no_p(found, "category")
    assert "one prompt only in technical" in found.answers["category"].sentence
    assert [row["prompts"] for row in found.answers["category"].details["means"]] == [2, 2, 1, 2]
    answered(found, *(key for key in ANSWERS if key != "category"))


def test_two_prompts_a_category_are_tested_with_the_power_beside(ask: Ask) -> None:
    found = ask(categories=(2, 2, 2)).answers["category"]
    assert found.p is not None
    assert f"{100 * found.details['power'][0.4]:.0f} % for f = 0.4" in found.sentence


def test_a_mode_whose_cells_are_all_missing_is_named(ask: Ask) -> None:
    found = ask(Effects(lost=((None, None, 1),)))
    no_p(found, "modes", "cross_parallel", "logits")
    assert "no experiment in mode visible" in found.answers["modes"].sentence
    answered(found, "downweighting", "category", "seeds", "maps")


def test_nan_in_a_layer_is_masked_in_the_maps_and_stops_what_rests_on_it(ask: Ask) -> None:
    found = ask(Effects(nan_layer=1))
    no_p(found, "downweighting", "category", "modes", "cross_parallel", "over_steps", "seeds")
    assert "in layer 1" in found.answers["downweighting"].sentence
    assert "layer 1 (3 heads)" in found.answers["maps"].sentence
    told = found.to_dict()["answers"]["maps"]["details"]
    assert told["q"][1] == [None] * 3
    assert None not in told["q"][0]
    answered(found, "maps", "logits")


def test_a_cell_whose_mask_was_not_applied_stops_what_is_said_of_modes(ask: Ask) -> None:
    found = ask(Effects(untreated=((3, 1, 0),)))
    no_p(found, "modes", "cross_parallel", "logits")
    assert "treatment check 'isolation' failed in 1 experiment" in found.answers["modes"].sentence
    assert not found.passed
    answered(found, "downweighting", "category")


def test_missing_cells_take_the_model_which_a_second_program_agrees_with(ask: Ask) -> None:
    found = ask(Effects(missing=0.1), seeds=3)
    assert "Kenward-Roger" in found.answers["downweighting"].method
    assert "statsmodels MixedLM" in detail(found, "mixed model")
    assert "6 of 60 cells are missing" in detail(found, "completeness")


def test_single_is_a_baseline_and_causal_a_row_beside_in_a_cube_too(ask: Ask) -> None:
    found = ask(Effects(prompt_mode_sd=0), modes=("isolated", "visible", "causal", "single"))
    told = found.answers["downweighting"].details
    assert told["by_mode"]["causal"]["n"] == 10
    assert told["by_mode"]["single"] is None
    assert {row for row in told["prompts"][0] if row in ("isolated", "visible", "causal", "single")} == {
        "isolated",
        "visible",
    }
    assert told["single_baseline"]["n"] == 10
    assert told["placebo"]["n"] == 10
    assert told["legacy_ratio"]["label"].startswith("legacy")
    assert chances(found.to_dict()["answers"]["downweighting"]["details"]["single_baseline"]) == []
