"""The specification curve: a planted effect is in every analysis of it, an artefact is told apart."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tempocube.dataset import simulated
from tempocube.dataset.simulated import Design, Effects
from tempocube.stats.figures import Picture, pictures
from tempocube.stats.figures.curve import MEASURES, summaries
from tempocube.stats.report import Report, report

DESIGN = Design(categories=(4, 4), seeds=2, modes=("isolated", "visible", "single"), layers=3, heads=2)
QUIET = {"prompt_sd": 0.05, "prompt_seed_sd": 0.02, "prompt_mode_sd": 0.02, "residual_sd": 0.02, "noise": 0.1}
LEGACY = MEASURES["legacy_ratio"][0]


def curve(where: Any, **effects: Any) -> Picture:
    """The curve of a cube."""
    return curve_of(report(simulated.cube(DESIGN, Effects(**QUIET | effects), where, seed=2).url))


def curve_of(made: Report) -> Picture:
    return next(picture for picture in pictures(made) if picture.name == "curve")


def test_a_planted_effect_is_in_every_analysis_of_the_same_question(tmp_path: Any) -> None:
    picture = curve(tmp_path / "half.zarr", mean=math.log(0.5))
    fair = picture.table[picture.table["same_question"]]
    assert fair["estimate"].between(0.42, 0.58).all()
    assert (fair["high"] < 1).all()
    assert {"all layers", "first half", "last third"} <= set(fair["layers"])
    assert set(fair["measure"]) == {name for name, same in MEASURES.values() if same}
    assert set(fair.loc[~fair["reported"], "summary"]) == {"mean", "median", "trimmed 20 %"}
    assert set(fair["modes"]) == {*("isolated and visible", "isolated", "visible")}
    assert "100 % lie on the same side" in picture.caption


def test_a_sink_alone_fools_the_legacy_ratio_and_nothing_else(tmp_path: Any) -> None:
    table = curve(tmp_path / "sink.zarr", mean=0.0, sink=0.5).table
    fair, legacy = table[table["same_question"]], table[table["measure"] == LEGACY]
    assert fair["estimate"].between(0.9, 1.12).all()
    assert (legacy["high"] < 0.75).all(), "an effect that is none"
    assert legacy["place"].max() < fair["place"].min(), "it stands apart"
    assert not legacy["same_question"].any()


def test_the_curve_is_sorted_and_drawn_from_its_table(tmp_path: Any) -> None:
    picture = curve(tmp_path / "some.zarr", mean=-0.3, outlier=(1, 30.0))
    table = picture.table
    assert table["estimate"].is_monotonic_increasing
    assert set(table["prompts"]) == {*("all prompts", "without outliers")}
    above, below = picture.figure().axes
    points = np.concatenate([np.asarray(each.get_offsets()) for each in above.collections[1::2]])
    assert sorted(points[:, 1]) == pytest.approx(table["estimate"].tolist())
    dots = sum(len(each.get_offsets()) for each in below.collections)
    varied = sum(table[name].nunique() > 1 for name in table.columns[1:7])
    assert dots == varied * len(table), "one dot for each choice of each analysis"


@pytest.mark.parametrize("missing", [0.0, 0.15], ids=["prompt means", "mixed model"])
def test_the_reported_analysis_is_one_of_them_and_has_a_ring(missing: float) -> None:
    made = report(simulated.frame(replace(DESIGN, seeds=3), Effects(mean=-0.2, missing=missing), seed=3))
    picture, answer = curve_of(made), made.answers.answers["downweighting"]
    (own,) = picture.table[picture.table["reported"]].itertuples()
    assert np.log([own.estimate, own.low, own.high]) == pytest.approx([answer.estimate, *(answer.ci or ())])
    assert own.same_question
    plain = float(np.mean([row["mean"] for row in answer.details["prompts"]]))
    assert (math.log(own.estimate) == pytest.approx(plain)) == (missing == 0)
    assert own.summary == ("mixed model" if missing else "mean")
    (ring,) = (each for each in picture.figure().axes[0].collections if "answer" in str(each.get_label()))
    assert np.asarray(ring.get_offsets()) == pytest.approx(np.array([[own.place, own.estimate]]))


def test_chosen_layers_are_not_called_all(tmp_path: Any) -> None:
    cube = simulated.cube(replace(DESIGN, seeds=1), Effects(**QUIET), tmp_path / "some.zarr", seed=2)
    table = curve_of(report(cube.url, layers=[1, 2])).table
    assert set(table["layers"]) == {"layers 1, 2", "first half of them", "second half of them"}
    assert table["reported"].sum() == 1


def test_intervals_over_prompts_are_those_of_the_textbook() -> None:
    x = np.random.default_rng(1).normal(-0.3, 0.2, 20)
    found = summaries(x, "logs")
    reach = stats.t.interval(0.95, 19, x.mean(), stats.sem(x))
    assert (found["mean"].low, found["mean"].high) == pytest.approx(reach)
    low, high = sorted(x)[5], sorted(x)[14]  # the 6th and the 15th of 20 hold the median with 95.9 %
    assert (found["median"].low, found["median"].high) == pytest.approx((low, high))
    assert found["trimmed 20 %"].estimate == pytest.approx(stats.trim_mean(x, 0.2))
    ratios = summaries(np.exp(x), "ratios")
    assert ratios["mean"].estimate == pytest.approx(math.log(np.exp(x).mean()))
    assert ratios["median"].estimate == pytest.approx(math.log(np.median(np.exp(x))))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(3), dict.fromkeys(("mean", "median", "trimmed 20 %"), 0)
    for _ in range(400):
        for name, found in summaries(random.normal(0.2, 1.0, 12), "logs").items():
            held[name] += found.low <= 0.2 <= found.high
    assert all(0.92 <= count / 400 <= 0.99 for count in held.values()), held


def test_too_few_prompts_have_means_only() -> None:
    assert list(summaries(np.array([0.1, 0.2]), "logs")) == ["mean"]
    assert summaries(np.array([0.1, 0.1]), "logs") == {}
