"""What pictures draw: their tables hold what was planted, and artists hold what is in the tables."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from cubes import facts, fill, grid
from tempocube.dataset import simulated
from tempocube.dataset.simulated import Design, Effects
from tempocube.stats import measures
from tempocube.stats.figures import Picture, pictures
from tempocube.stats.figures.readouts import KL, within_bounds
from tempocube.stats.figures.style import FADED
from tempocube.stats.report import Report, report

DESIGN = Design(categories=(3, 3), seeds=2, modes=("isolated", "visible"), layers=3, heads=4)
# (layer, head): one attends less to parallel tokens, one more
HEADS = ((-0.8, 0.0, 0.0, 0.0), (0.0,) * 4, (0.0, 0.0, 0.0, 0.8))
PLANTED = Effects(mean=math.log(0.5), mode={"visible": -0.2}, prompt_sd=0.1, outlier=(4, 20.0))
QUIET = {"prompt_seed_sd": 0.02, "prompt_mode_sd": 0.02, "residual_sd": 0.02, "noise": 0.05}


def made(where: Any, design: Design, effects: Effects, **options: Any) -> Report:
    """The report of a simulated cube."""
    return report(simulated.cube(design, effects, where, seed=1, **options).url)


def named(of: Report) -> dict[str, Picture]:
    """Its pictures by name."""
    return {picture.name: picture for picture in pictures(of)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return made(tmp_path_factory.mktemp("figures") / "planted.zarr", DESIGN, replace(PLANTED, **QUIET))


@pytest.fixture(scope="module")
def drawn(planted: Report) -> dict[str, Picture]:
    return named(planted)


def offsets(figure: Figure, panel: int = 0) -> np.ndarray:
    """(point, 2): all points of an axes."""
    drawn = [each for each in figure.axes[panel].collections if isinstance(each, PathCollection)]
    return np.concatenate([np.asarray(each.get_offsets()) for each in drawn])


def holds(values: np.ndarray, wanted: Any) -> bool:
    """Whether all wanted values are among them."""
    wanted = np.asarray(wanted, dtype=float)
    return bool(np.isclose(values[:, None], wanted[None, :], rtol=1e-9).any(axis=0).all())


def test_a_cube_of_two_modes_has_every_picture(drawn: dict[str, Picture]) -> None:
    assert list(drawn) == [
        *("forest", "curve", "variance", "outliers", "modes", "divergences"),
        *("maps", "course", "width", "probabilities", "positions"),
    ]


def test_every_picture_has_a_table_n_in_its_caption_and_titles_on_its_axes(drawn: dict[str, Picture]) -> None:
    for picture in drawn.values():
        assert list(picture.tables) == [picture.name]
        assert len(picture.table), picture.name
        assert "n = " in picture.caption, picture.name
        assert picture.alt, picture.name
        axes = picture.figure().axes
        assert any(panel.get_xlabel() for panel in axes), picture.name
        first = axes[0]
        assert first.get_ylabel() or any(tick.get_text() for tick in first.get_yticklabels()), picture.name
        assert picture.figure().get_figwidth() * 72 <= 960


def test_the_forest_shows_the_means_that_were_planted(planted: Report, drawn: dict[str, Picture]) -> None:
    table = drawn["forest"].table
    truth = simulated.frame(DESIGN, replace(PLANTED, **QUIET), seed=1)
    means = truth.groupby("prompt", sort=False)["downweighting"].mean()
    prompts = table[table["kind"] == "prompt"].set_index("prompt")["value"]
    assert np.log(prompts[means.index]).to_numpy() == pytest.approx(means.to_numpy(), abs=0.06)
    answer = planted.answers.answers["downweighting"]
    (mean,) = table[table["kind"] == "mean"].itertuples()
    assert np.log([mean.value, mean.low, mean.high]) == pytest.approx([answer.estimate, *(answer.ci or ())])
    assert (table["kind"] == "experiment").sum() == 24


def test_the_forest_draws_its_table_and_nothing_else(drawn: dict[str, Picture]) -> None:
    picture = drawn["forest"]
    x = offsets(picture.figure())[:, 0]
    shown = picture.table[picture.table["kind"].isin(["experiment", "prompt", "mean"])]
    assert holds(x, shown["value"])
    assert len(x) == len(shown)
    other = picture.table.assign(value=picture.table["value"] * 1.5)
    moved = offsets(replace(picture, table=other).figure())[:, 0]
    assert sorted(moved) == pytest.approx(sorted(1.5 * x))


def test_the_difference_of_modes_lies_beside_its_band(drawn: dict[str, Picture]) -> None:
    picture = drawn["modes"]
    table = picture.table.set_index("kind")
    assert math.log(table.loc["mean", "value"]) == pytest.approx(-0.2, abs=0.06)
    band = table.loc["band"]
    assert (band["low"], band["high"]) == pytest.approx((1 / 1.1, 1.1))
    patch = next(p for p in picture.figure().axes[0].patches if p.get_label() == "equivalence band")
    x = patch.get_path().get_extents(patch.get_patch_transform())
    assert (x.x0, x.x1) == pytest.approx((band["low"], band["high"]))
    assert "does not lie within" in picture.caption


def test_an_odd_prompt_stands_beyond_the_line(drawn: dict[str, Picture]) -> None:
    picture = drawn["outliers"]
    table = picture.table.set_index("prompt")
    assert table.index[(table["t"].abs() > table["edge"])].tolist() == ["p4"]
    others = table["value"].drop("p4")
    assert table.loc["p4", "value"] < others.min(), "without the high one the mean is lower"
    assert "p4 beyond it" in picture.caption
    left = picture.figure().axes[0]
    at = sorted({line.get_xdata()[0] for line in left.lines})
    assert at == pytest.approx([-table["edge"].iloc[0], 0.0, table["edge"].iloc[0]])


def test_maps_show_planted_heads_and_fade_what_is_not_found(tmp_path: Any) -> None:
    effects = Effects(prompt_sd=0.01, by_head=HEADS, **QUIET)
    picture = named(made(tmp_path / "heads.zarr", DESIGN, effects))["maps"]
    both = picture.table[picture.table["panel"] == "all modes"].set_index(["layer", "head"])
    assert both.loc[(0, 0), "log_ratio"] == pytest.approx(-0.8, abs=0.08)
    assert both.loc[(2, 3), "log_ratio"] == pytest.approx(0.8, abs=0.08)
    for panel, mode in enumerate(("isolated", "visible")):
        own = picture.table[picture.table["panel"] == mode]
        image = picture.figure().axes[panel].images[0].get_array()
        q = own.pivot(index="layer", columns="head", values="q").to_numpy()
        assert (image[..., 3] == 1.0).all(), "a page's ground shines through none"
        assert (image[q >= 0.05, :3] >= 1 - FADED).all(), "pale"
        assert (image[q < 0.05, :3].min(axis=1) < 1 - FADED).all()
        assert image[0, 0, 2] > image[0, 0, 0], "less is blue"
        assert image[2, 3, 0] > image[2, 3, 2], "more is red"
    assert (both["q"] < 0.05).sum() < both["q"].size


def test_the_course_rises_as_planted(tmp_path: Any) -> None:
    effects = Effects(prompt_sd=0.1, slope=0.1, **QUIET)
    picture = named(made(tmp_path / "slope.zarr", replace(DESIGN, seeds=1), effects))["course"]
    table = picture.table
    mean = table[table["kind"] == "mean"].sort_values("step")
    slope = np.polyfit(mean["step"], np.log(mean["value"]), 1)[0]
    assert slope == pytest.approx(0.1, abs=0.03)
    lines = picture.figure().axes[0].lines
    thick = next(line for line in lines if line.get_label() == "mean of prompts, 95 % CI")
    assert np.asarray(thick.get_ydata()) == pytest.approx(mean["value"].to_numpy())


def test_width_and_threshold_are_those_of_the_sets(planted: Report, drawn: dict[str, Picture]) -> None:
    table, steps = drawn["width"].table, planted.part.steps
    assert steps is not None
    mean = table[(table["kind"] == "mean") & (table["panel"] == "width")]
    assert mean["mode"].unique().tolist() == ["all modes"], "under replay no mode has sets of its own"
    assert mean["value"].to_numpy() == pytest.approx(steps.groupby("step")["width"].mean().to_numpy())
    threshold = table.loc[table["panel"] == "threshold", "value"]
    assert threshold.to_numpy() == pytest.approx(0.1)


def test_divergences_over_steps_average_to_those_of_experiments(
    planted: Report, drawn: dict[str, Picture]
) -> None:
    table = drawn["divergences"].table
    own = table[(table["kind"] == "prompt") & (table["measure"] == KL)].groupby("prompt")["value"].mean()
    between = measures.between(planted.part.cube).groupby("prompt")["kl"].mean()
    assert own.to_numpy() == pytest.approx(between[own.index].to_numpy(), rel=1e-6)


def test_large_vocabularies_are_read_in_part_but_for_every_prompt() -> None:
    compared = {(f"p{i}", seed): 300 for i in range(5) for seed in range(10)}
    pairs, stride = within_bounds(compared, 128_256)
    assert {prompt for prompt, _ in pairs} == {f"p{i}" for i in range(5)}
    assert len(pairs) < 50
    assert len(pairs) * 300 / stride * 128_256 * 2 < 50_000_000
    assert within_bounds({("p0", 1): 10, ("p1", 1): 0}, 64) == ([("p0", 1)], 1)


def test_selected_tokens_share_one_whole(drawn: dict[str, Picture]) -> None:
    table = drawn["probabilities"].table
    shares = table[table["panel"] == "selected"].groupby("mode")["share"].sum()
    assert shares.to_dict() == pytest.approx({"isolated": 1.0, "visible": 1.0})
    ranks = table[table["panel"] == "candidates"].groupby("mode")["median"]
    assert all((np.diff(values) <= 0).all() for _, values in ranks)


def test_tokens_of_a_set_lie_on_one_position(planted: Report, drawn: dict[str, Picture]) -> None:
    picture = drawn["positions"]
    table = picture.table
    wide = table[table["kind"] == "parallel"].groupby("step")["logical"]
    assert (wide.nunique() == 1).all()
    assert (wide.size() >= 2).all()
    points = offsets(picture.figure())
    assert np.array_equal(points[points[:, 0].argsort()], table[["slot", "logical"]].to_numpy())
    assert len(wide) == planted.part.frame["parallel_sets"].max()


def test_variances_are_those_of_the_answer(planted: Report, drawn: dict[str, Picture]) -> None:
    parts = planted.answers.answers["prompt_variance"].details["components"]
    picture = drawn["variance"]
    assert dict(zip(picture.table["component"], picture.table["variance"], strict=True)) == parts
    bars = [bar.get_width() for bar in picture.figure().axes[0].patches]
    assert bars == pytest.approx(list(parts.values()))


SMALL = Design(categories=(2, 2), seeds=1, steps=8, layers=2, heads=2)


def test_what_is_withheld_is_left_out(tmp_path: Any) -> None:
    copies = named(made(tmp_path / "copies.zarr", SMALL, Effects(same_modes=True)))
    assert "forest" in copies
    assert not {"modes", "divergences"} & set(copies)


def test_what_was_not_captured_is_left_out(tmp_path: Any) -> None:
    one = named(made(tmp_path / "one.zarr", replace(SMALL, modes=("isolated",)), Effects()))
    assert "forest" in one
    assert not {"modes", "divergences"} & set(one)
    bare = {"attention": True, "logits": False}
    unread = named(made(tmp_path / "bare.zarr", SMALL, Effects(), capture=bare))
    assert "modes" in unread
    assert "divergences" not in unread


def test_pictures_are_of_one_value_of_a_swept_axis(tmp_path: Any) -> None:
    url = simulated.cube(SMALL, Effects(), tmp_path / "swept.zarr", seed=1, threshold=[0.1, 0.05]).url
    found = named(report(url, at={"threshold": 0.05}))
    assert {"divergences", "maps", "course", "width", "probabilities", "positions"} <= set(found)
    width = found["width"].table
    threshold = width.loc[width["panel"] == "threshold", "value"]
    assert threshold.to_numpy() == pytest.approx(0.05)
    assert "threshold=0.05" in found["positions"].table["experiment"].iloc[0]


def test_a_control_has_no_pictures(tmp_path: Any) -> None:
    assert pictures(made(tmp_path / "control.zarr", SMALL, Effects(control="clone"))) == ()


def test_a_table_has_the_pictures_that_its_columns_allow() -> None:
    of = report(simulated.frame(Design(), Effects(mean=-0.5), seed=1))
    assert set(named(of)) == {"forest", "curve", "variance", "outliers", "modes"}


def test_a_response_that_is_no_ratio_is_drawn_as_it_is() -> None:
    frame = simulated.frame(Design(), Effects(mean=3.0), seed=1).rename(columns={"downweighting": "width"})
    found = named(report(frame, response="width"))
    assert set(found) == {"forest", "variance", "outliers", "modes"}
    table = found["forest"].table
    assert table.loc[table["kind"] == "mean", "value"].iloc[0] == pytest.approx(3.0, abs=0.3)
    assert found["forest"].figure().axes[0].get_xscale() == "linear"
    assert found["forest"].figure().axes[0].get_xlabel() == "width"


@pytest.mark.parametrize("categories", [(2,), (8, 8, 8, 8, 8, 8, 7, 7)], ids=["2 prompts", "62 prompts"])
def test_no_label_lies_on_another_or_is_cut(categories: tuple[int, ...]) -> None:
    found = named(report(simulated.frame(Design(categories=categories, seeds=1), Effects(mean=-0.5), seed=1)))
    for name in ("forest", "modes"):
        figure = found[name].figure()
        figure.canvas.draw()
        labels = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
        assert all(a.y0 >= b.y1 for a, b in itertools.pairwise(labels)), name
        assert min(each.x0 for each in labels) >= 0, name
        title = figure.axes[0].xaxis.label.get_window_extent()
        assert min(title.x0, title.y0) >= 0, name
        assert title.x1 <= figure.bbox.x1, name


def test_a_cube_without_probabilities_has_no_picture_of_them(tmp_path: Any) -> None:
    cube = fill(tmp_path / "made.zarr", grid(4, max_tokens=8), facts())
    found = named(report(str(cube.place.url)))
    assert "probabilities" not in found
    assert "width" in found
    assert isinstance(found["width"].table, pd.DataFrame)
