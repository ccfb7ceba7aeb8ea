"""Answers from a frame: the reference's numbers, each special case's sentence, and no p-value too many."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from tempocube.dataset.reading import open_cube
from tempocube.dataset.scenarios import SCENARIOS, Design, Effects, frame
from tempocube.dataset.simulated import cube as simulated_cube
from tempocube.errors import BadInput
from tempocube.stats import measures
from tempocube.stats.answers import CONFIRMATORY, Answers, answer
from tempocube.stats.gate import ANSWERS
from tempocube.stats.questions import between, beyond

HERE = Path(__file__).parent / "reference"
CLUSTER = json.loads((HERE / "refs_cluster.json").read_text())["cluster"]

FIELDS = {"sentence", "estimate", "ci", "df", "p", "method", "n", "details"}


def simulated(effects: Effects | None = None, **design: Any) -> pd.DataFrame:
    return frame(Design(**design), effects or Effects(), seed=3)


def maps_of(made: pd.DataFrame, cells: np.ndarray, nan_layer: int | None = None) -> xr.DataArray:
    """Maps (prompt, seed, mode, layer, head) that scatter around cells (layer, head)."""
    names = {name: list(dict.fromkeys(made[name])) for name in ("prompt", "seed", "mode")}
    shape = tuple(len(values) for values in names.values())
    random = np.random.default_rng(1)
    values = cells + 0.1 * random.normal(size=(*shape, 1, 1)) + 0.2 * random.normal(size=shape + cells.shape)
    if nan_layer is not None:
        values[..., nan_layer, :] = np.nan
    coords = {**names, "layer": range(cells.shape[0]), "head": range(cells.shape[1])}
    return xr.DataArray(values, coords=coords, dims=list(coords))


@pytest.fixture(scope="module")
def whole() -> Answers:
    """Everything that can be asked, of a study in which all of it is there."""
    random = np.random.default_rng(2)
    made = simulated(Effects(mean=math.log(0.5), mode={"visible": -0.2}))
    n, visible = len(made), made["mode"] == "visible"
    made = made.assign(
        slope=random.normal(-0.05, 0.02, n),
        parallel_sets=5,
        cross_parallel=np.where(visible, math.log(2) + random.normal(0, 0.1, n), np.nan),
        downweighting_per_set=made["downweighting"] + 0.7,
        legacy_ratio=0.4,
        entropy=random.normal(2, 0.1, n),
    )
    made.attrs["checks"] = {"isolation": {"pass": 50, "fail": 0}}
    pairs = made.loc[visible, ["prompt", "category", "seed"]].assign(
        kl=random.uniform(0.001, 0.002, n // 2), kl_max=0.01, jaccard_10=1.0, identical=False, same_sets=True
    )
    cells = np.zeros((6, 4))
    cells[2:4] = -1
    return answer(made, between=pairs, maps=maps_of(made, cells))


def test_everything_has_the_report_files_shape(whole: Answers) -> None:
    told = json.loads(whole.to_json())
    assert set(told) >= {"design", "gate", "answers", "scenario", "warnings", "versions"}
    assert tuple(told["answers"]) == ANSWERS
    for found in told["answers"].values():
        assert set(found) == FIELDS
        assert found["n"] == 10
    assert told["design"]["distinct_captures"] == told["design"]["done"] == told["design"]["cells"] == 100
    assert {check["status"] for check in told["gate"]} == {"pass"}
    assert whole.passed


def test_sentences_carry_numbers_and_never_confirm(whole: Answers) -> None:
    for found in whole.answers.values():
        assert any(letter.isdigit() for letter in found.sentence)
        assert not any(word in found.sentence.lower() for word in ("confirmed", "proved", "significant"))
    sentence = whole.answers["downweighting"].sentence
    ratio = whole.answers["downweighting"].details["ratio"]
    assert sentence.startswith(f"Parallel tokens receive {ratio:.3g}x the attention of single tokens")


def test_planted_effects_are_found(whole: Answers) -> None:
    found = whole.answers
    assert found["modes"].estimate == pytest.approx(-0.2, abs=0.1)
    assert found["cross_parallel"].details["ratio"] == pytest.approx(2, rel=0.1)
    assert found["over_steps"].estimate == pytest.approx(-0.05, abs=0.02)
    assert found["maps"].details["shown"] == 8
    clusters = found["maps"].details["layers"]["clusters"]
    assert [(c["first"], c["last"]) for c in clusters if c["p"] < 0.05] == [(2, 3)]
    assert found["logits"].details["upper"] < 0.002


def test_holm_is_over_the_confirmatory_four_only(whole: Answers) -> None:
    family = {key for key, found in whole.answers.items() if "p_holm" in found.details}
    assert family == set(CONFIRMATORY)
    smallest = min(CONFIRMATORY, key=lambda key: whole.answers[key].p)
    assert whole.answers[smallest].details["p_holm"] == pytest.approx(4 * whole.answers[smallest].p)
    assert whole.answers["over_steps"].details["family"] == "exploratory"


def test_the_same_frame_and_seed_give_the_same_answers() -> None:
    made = simulated()
    assert answer(made, seed=5).to_json() == answer(made, seed=5).to_json()


def test_rows_may_come_in_any_order() -> None:
    made = simulated()
    one, other = answer(made), answer(made.sample(frac=1, random_state=1))
    for key in ("downweighting", "category", "modes"):
        assert one.answers[key].p == pytest.approx(other.answers[key].p)


@pytest.mark.parametrize("name", CLUSTER)
def test_a_plain_frame_gives_the_references_numbers(name: str) -> None:
    made = pd.read_csv(HERE / f"{name}.csv")
    told, found = CLUSTER[name], answer(made.rename(columns={"y": "downweighting"}), sesoi=0.1).answers
    first = found["downweighting"]
    assert first.estimate == pytest.approx(told["mean"], abs=1e-9)
    assert first.ci == pytest.approx(told["t_df9"]["ci"], abs=1e-8)
    assert (first.df, first.p) == pytest.approx((9, told["t_df9"]["p"]), abs=1e-9)
    these = first.details["these_categories"]
    assert [these["low"], these["high"]] == pytest.approx(told["mean_cat_fixed_df5"]["ci"], abs=1e-8)
    assert found["generalisation"].ci == pytest.approx(told["pred_new_prompt_df9"], abs=1e-8)
    assert found["category"].p == pytest.approx(told["anova_category"]["p"], abs=1e-9)
    assert found["modes"].p == pytest.approx(told["mode_t"]["p"], abs=1e-9)
    assert found["modes"].ci == pytest.approx(told["mode_t"]["ci"], abs=1e-8)
    assert found["modes"].details["tost"]["ci90"] == pytest.approx(told["tost_0.1"]["ci90"], abs=1e-8)
    assert found["effect_size"].estimate == pytest.approx(told["cohen_d_onesample"], abs=1e-9)
    assert found["effect_size"].ci == pytest.approx(told["d_ci_noncentral_t"], abs=1e-4)


def test_both_routes_agree_where_both_are_right() -> None:
    made = pd.read_csv(HERE / "design_balanced.csv").rename(columns={"y": "downweighting"})
    whole, gap = answer(made).answers, answer(made.drop(index=7)).answers
    for key in ("downweighting", "category", "modes"):
        assert "REML" not in whole[key].method
        assert "Kenward-Roger" in gap[key].method
        assert gap[key].p == pytest.approx(whole[key].p, rel=0.5)
        assert gap[key].df == pytest.approx(whole[key].df, rel=0.1)


def no_p(found: Answers, *keys: str) -> None:
    for key in keys or ANSWERS:
        assert found.answers[key].p is None, key
        assert found.answers[key].not_tested, key
        assert found.answers[key].sentence.startswith("Not tested: ")


def test_deterministic_seeds_have_their_sentence_and_no_p() -> None:
    found = answer(simulated(SCENARIOS["D"]))
    no_p(found, "seeds")
    assert "selection is deterministic: seeds are copies, n is 10 not 50" in found.answers["seeds"].sentence
    assert found.answers["downweighting"].df == 9
    assert found.answers["prompt_variance"].details["icc"] == "not applicable: seeds are copies"


def test_the_references_deterministic_design_is_one_seed() -> None:
    found = answer(pd.read_csv(HERE / "design_deterministic.csv"), "y")
    no_p(found, "seeds")
    assert "seeds are copies, n is 10 not 50" in found.answers["seeds"].sentence
    assert found.answers["downweighting"].df == 9


def test_identical_modes_are_suspect_and_never_confirmed() -> None:
    found = answer(simulated(SCENARIOS["C"]))
    no_p(found, "modes", "cross_parallel", "logits")
    assert "SUSPECT" in found.answers["modes"].sentence
    assert found.scenario.verdict == "undetermined"
    assert found.scenario.default_mode is None
    assert "confirmed" not in found.to_json()
    assert found.answers["downweighting"].p is not None


def test_one_prompt_in_a_category_has_means_and_no_test() -> None:
    found = answer(simulated(categories=(2, 2, 1, 2)))
    no_p(found, "category")
    means = found.answers["category"].details["means"]
    assert [row["prompts"] for row in means] == [2, 2, 1, 2]
    assert all(row["low"] < row["mean"] < row["high"] for row in means)
    assert found.answers["downweighting"].p is not None


def test_two_prompts_a_category_are_tested_with_their_power_beside() -> None:
    found = answer(simulated()).answers["category"]
    assert found.p is not None
    assert found.details["power"] == pytest.approx({0.4: 0.09, 0.8: 0.23}, abs=0.006)
    assert "9 % for f = 0.4, 23 % for f = 0.8" in found.sentence
    assert found.details["prompts_per_category_for"][0.4] == 16


def test_a_mode_that_is_missing_altogether_is_named() -> None:
    found = answer(simulated(Effects(lost=((None, None, 1),))))
    no_p(found, "modes", "cross_parallel", "logits")
    assert "no experiment in mode visible" in found.answers["modes"].sentence
    assert found.answers["downweighting"].p is not None


def test_nan_in_a_layer_is_left_out_and_named() -> None:
    made = simulated()
    found = answer(made, maps=maps_of(made, np.full((5, 4), -1.0), nan_layer=3)).answers["maps"]
    assert "layer 3 (4 heads)" in found.sentence
    q = np.array(found.details["q"])
    assert np.isnan(q[3]).all()
    assert (q[[0, 1, 2, 4]] < 0.05).all()
    assert json.loads(json.dumps(found.to_dict()))["details"]["q"][3] == [None] * 4


@pytest.mark.parametrize("control", ["clone", "repeat", "no_mask"])
def test_a_control_cube_has_no_answers(control: str) -> None:
    made = simulated()
    made.attrs["control"] = control
    found = answer(made)
    no_p(found)
    assert "means" not in found.answers["category"].details


def test_missing_cells_are_answered_by_the_mixed_model() -> None:
    found = answer(simulated(replace(SCENARIOS["A"], missing=0.15)))
    assert "Kenward-Roger" in found.answers["downweighting"].method
    assert "no interval: experiments are missing" in found.answers["seeds"].method


def test_a_seed_that_acts_alike_everywhere_widens_the_interval_of_the_mean() -> None:
    found = answer(simulated(Effects(seed_sd=0.4))).answers
    assert found["seeds"].p < 0.05
    first = found["downweighting"]
    assert "seeds act the same in all prompts" in first.method
    means = np.array([row["mean"] for row in first.details["prompts"]])
    assert first.ci[1] - first.ci[0] > 1.2 * 2 * 2.262 * means.std(ddof=1) / math.sqrt(10)


def test_skewed_prompts_get_the_wider_interval_first() -> None:
    made = simulated(Effects(skewed=True, prompt_sd=1.0))
    first = answer(made).answers["downweighting"]
    assert abs(first.details["skewness"]) > 1
    width = first.ci[1] - first.ci[0]
    for other in (first.details["bootstrap_t"], first.details.get("t_test", first.details["bootstrap_t"])):
        assert width >= other["high"] - other["low"] - 1e-12
    assert (first.p < 0.05) == (first.ci[0] > 0 or first.ci[1] < 0)


def test_an_odd_prompt_is_named() -> None:
    found = answer(simulated(Effects(outlier=(3, 15)))).answers["outliers"]
    assert found.details["flagged"] == ["p3"]
    assert found.sentence.startswith("p3 (higher) is shown to differ from the other prompts")


def test_numbers_too_good_to_be_true_are_withheld_until_the_treatment_is_verified() -> None:
    made = simulated(Effects(mean=50.0))
    no_p(answer(made), "effect_size")
    made.attrs["checks"] = {"isolation": {"pass": 50, "fail": 0}}
    found = answer(made)
    assert found.answers["effect_size"].estimate > 10
    assert any("check your pipeline" in warning for warning in found.warnings)


def test_prompts_that_are_all_the_same_are_no_finding() -> None:
    made = simulated().assign(downweighting=-0.5).drop(columns="path_digest")
    no_p(answer(made), "downweighting", "outliers", "effect_size", "category", "modes")


def test_single_is_a_baseline_and_causal_a_row_of_its_own() -> None:
    made = frame(Design(modes=("isolated", "visible", "causal", "single")), Effects(), seed=3)
    made["entropy"] = np.where(made["mode"] == "single", 1.0, 1.5) + np.arange(len(made)) * 1e-3
    found = answer(made).answers
    plain = answer(made[made["mode"].isin(["isolated", "visible"])]).answers
    assert found["downweighting"].p == pytest.approx(plain["downweighting"].p)
    assert found["downweighting"].details["by_mode"]["causal"]["n"] == 10
    assert found["downweighting"].details["by_mode"]["single"] is None
    baseline = found["modes"].details["against_single"]["isolated"]
    assert baseline["measure"] == "entropy"
    assert baseline["estimate"] == pytest.approx(0.5, abs=0.01)


def test_categories_differ_where_they_were_made_to() -> None:
    found = answer(simulated(Effects(category=(0, 1, 2, 3, 4)))).answers["category"]
    assert found.sentence.startswith("Categories are shown to differ (F(4, 5)")
    assert found.details["permutation"]["p"] == pytest.approx(1 / 945)
    assert found.ci[0] > 0


def test_five_prompts_have_no_prediction() -> None:
    no_p(answer(simulated(categories=(3, 2))), "generalisation")


@pytest.mark.parametrize("sesoi", [0.0, -0.1, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(sesoi: float) -> None:
    with pytest.raises(BadInput, match="sesoi"):
        answer(simulated(), sesoi=sesoi)


def test_a_cube_answers_from_end_to_end(tmp_path: Path) -> None:
    truth = Effects(mean=math.log(0.5), cross=math.log(1.5))
    simulated_cube(Design(steps=8, seeds=2), truth, tmp_path / "half.zarr", seed=2)
    cube = open_cube(tmp_path / "half.zarr")
    found = answer(measures.experiments(cube), between=measures.between(cube), maps=measures.maps(cube))
    assert found.passed
    assert found.answers["downweighting"].details["ratio"] == pytest.approx(0.5, rel=0.2)
    assert found.answers["cross_parallel"].details["ratio"] == pytest.approx(1.5, rel=0.05)
    assert found.scenario.verdict == "B"


def test_a_comparison_of_modes_that_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="no column 'seed'"):
        answer(simulated(), between=pd.DataFrame({"prompt": ["p0"], "kl": [0.1]}))


def test_text_in_any_measure_is_refused_by_its_name() -> None:
    with pytest.raises(BadInput, match="column 'slope' holds 'steep', which is no number"):
        answer(simulated().assign(slope="steep"))


# --- what a sentence says, and what it must not


def test_a_test_that_holm_takes_back_says_so() -> None:
    made = simulated()
    means = made.groupby("prompt")["downweighting"].mean()
    shift = 2.6 * means.std() / math.sqrt(10) - means.mean()  # t(9) = 2.6, p = 0.029
    found = answer(made.assign(downweighting=made["downweighting"] + shift)).answers["downweighting"]
    assert found.p == pytest.approx(0.0287, abs=1e-3)
    assert found.sentence.endswith(
        "more than 1x is shown; Holm over the 3 confirmatory tests: p = 0.086, "
        "so that with all of them it is not shown."
    )


def test_the_down_weighting_says_which_modes_it_is_a_mean_of() -> None:
    said = answer(simulated()).answers["downweighting"].sentence
    assert " at the same distance, mean of isolated and visible (95 % CI " in said
    alone = answer(simulated(modes=("isolated",))).answers["downweighting"].sentence
    assert " at the same distance, in isolated mode (95 % CI " in alone


def test_scatter_of_prompt_means_is_told_apart_from_prompts() -> None:
    made = simulated()
    level = made.groupby("prompt")["downweighting"].transform("mean")
    made["downweighting"] -= 0.9 * (
        level - level.mean()
    )  # less than seeds and modes alone would scatter them
    seeds = answer(made).answers["prompt_variance"]
    assert seeds.sentence.startswith("Prompt means scatter with an SD of ")
    assert seeds.sentence.endswith(
        "no difference between prompts beyond what their seeds and modes explain is seen (variance 0)."
    )
    assert seeds.details["sd_beyond_seeds"] == 0
    prompts = answer(simulated()).answers["prompt_variance"]
    own = math.sqrt(prompts.details["components"]["prompt"])
    assert prompts.sentence.endswith(
        f"beyond what seeds and modes explain prompts differ with an SD of {own:.3g}."
    )


def test_equivalence_and_difference_of_modes_are_of_one_route() -> None:
    found = answer(simulated(Effects(missing=0.15, mode={"visible": 0.3}))).answers["modes"]
    low, high = found.details["tost"]["ci90"]
    assert "Kenward-Roger" in found.method
    assert (low + high) / 2 == pytest.approx(found.estimate)
    ends = found.estimate + found.details["se"] * stats.t.ppf(0.95, found.df) * np.array([-1, 1])
    assert [low, high] == pytest.approx(ends.tolist())
    assert f"a difference is shown (t({found.df:.3g}) = " in found.sentence
    assert ", 10 prompts); equivalence within 10 % was not shown (TOST p = " in found.sentence


def test_a_mean_that_is_no_ratio_is_not_tested_against_0() -> None:
    made = simulated(Effects(mean=578.6)).rename(columns={"downweighting": "rt"}).assign(slope=1.0)
    made["cross_parallel"] = 0.1
    found = answer(made, "rt")
    no_p(found, "effect_size", "cross_parallel", "over_steps", "logits", "maps")
    assert found.answers["maps"].not_tested == "it is about attention, not about rt"
    assert found.answers["effect_size"].not_tested == "the mean of rt against 0 is no effect"
    first = found.answers["downweighting"]
    assert first.sentence.startswith("The mean of rt over isolated and visible is 579 (95 % CI ")
    assert (first.p, first.not_tested) == (None, None)
    assert " p " not in first.sentence
    assert not any(check.check == "too perfect" for check in found.gate)
    assert "p_holm" not in first.details
    assert "below" not in found.answers["generalisation"].sentence
    assert (
        "give the smallest difference of interest (--sesoi), on the scale of rt"
        in found.answers["modes"].sentence
    )
    assert found.answers["modes"].details["equivalent"] is None
    given = answer(made, "rt", sesoi=5.0).answers["modes"]
    assert "equivalent within +-5 (TOST p < 0.001)" in given.sentence


def test_maps_at_several_values_of_an_axis_are_refused() -> None:
    made = simulated()
    given = maps_of(made, np.zeros((2, 2)))
    with pytest.raises(
        BadInput, match="2 values of threshold: choose one value of each swept axis of the maps"
    ):
        answer(made, maps=xr.concat([given, given], "threshold"))
    one = answer(made, maps=given.expand_dims("threshold")).answers["maps"]
    assert one.estimate == answer(made, maps=given).answers["maps"].estimate
    lost = answer(made, maps=given.assign_coords(prompt=[f"q{i}" for i in range(10)])).answers["maps"]
    assert lost.not_tested == "0 prompts have maps, 4 are needed"


def test_where_nothing_is_shown_it_is_said_what_could_have_been() -> None:
    made = simulated()
    random = np.random.default_rng(2)
    made["cross_parallel"] = np.where(made["mode"] == "visible", random.normal(0, 0.5, len(made)), np.nan)
    found = answer(made).answers
    cross = found["cross_parallel"]
    seen = math.exp(cross.details["detectable"])
    assert f"the design could have shown it only of {seen:#.3g}x or more (power 80 %)" in cross.sentence
    seeds = found["seeds"]
    told = (
        f"the design could have seen only an SD of {seeds.details['detectable']:.3g} on the log scale or more"
    )
    assert told in seeds.sentence
    assert " or less, or " in found["downweighting"].sentence


def test_numbers_that_are_not_1_do_not_look_like_it() -> None:
    assert between(0.51, 0.9996) == "0.510 to 0.9996"
    assert between(1.0004, 1.3) == "1.0004 to 1.30"
    assert between(0.9, 1.0) == "0.900 to 1.00"
    assert beyond(0.457) == "0.633x or less, or 1.58x or more"
