"""What captions, names and marks of pictures say, where experiments are missing, many or noisy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection

from tempocube.dataset import simulated
from tempocube.dataset.simulated import Design, Effects
from tempocube.stats.figures import Picture, pictures
from tempocube.stats.figures.model import NO_VALUE, dotted
from tempocube.stats.questions import ratio
from tempocube.stats.report import Report, report

SMALL = Design(categories=(2, 2), seeds=1, steps=8, layers=2, heads=2)


def made(where: Any, design: Design, effects: Effects, seed: int = 1) -> Report:
    """The report of a simulated cube."""
    return report(simulated.cube(design, effects, where, seed=seed).url)


def named(of: Report) -> dict[str, Picture]:
    """Its pictures by name."""
    return {picture.name: picture for picture in pictures(of)}


def test_means_that_are_not_those_of_prompts_say_so() -> None:
    design = Design(categories=(3, 3), seeds=3)
    whole, lost = (
        named(report(simulated.frame(design, Effects(mean=-0.3, missing=share), seed=4)))
        for share in (0.0, 0.15)
    )
    assert "REML" not in whole["forest"].caption + whole["outliers"].caption
    table = lost["forest"].table
    diamonds = float(np.exp(np.log(table.loc[table["kind"] == "prompt", "value"]).mean()))
    mean = float(table.loc[table["kind"] == "mean", "value"].iloc[0])
    assert ratio(diamonds) != ratio(mean)
    assert f"The mean is {ratio(mean)}" in lost["forest"].caption
    assert f"the diamonds' own mean is {ratio(diamonds)}" in lost["forest"].caption
    assert f"while the answer is {ratio(mean)} by REML" in lost["outliers"].caption


@pytest.mark.parametrize("seeds", [4, 30])
def test_points_that_are_too_many_are_in_no_table_and_no_caption(seeds: int) -> None:
    design = Design(categories=(2, 2), seeds=seeds)
    found = named(report(simulated.frame(design, Effects(mean=-0.3), seed=4)))
    for name, kind, what in (("forest", "experiment", "experiments"), ("modes", "seed", "seeds")):
        picture = found[name]
        points = picture.table[picture.table["kind"].isin([kind, "prompt", "mean", "equivalence"])]
        drawn = [of for of in picture.figure().axes[0].collections if isinstance(of, PathCollection)]
        assert sum(len(of.get_offsets()) for of in drawn) == len(points), name
        assert (kind in set(points["kind"])) == (seeds == 4), name
        assert (f"Small points are single {what}" in picture.caption) == (seeds == 4), name
        assert (f"Single {what}" in picture.caption) == (seeds == 30), name


def test_cells_without_a_value_have_a_cross_and_no_colour(tmp_path: Any) -> None:
    picture = named(made(tmp_path / "gap.zarr", SMALL, Effects(nan_layer=1)))["maps"]
    assert "cells with a cross have no value" in picture.caption
    for panel in picture.figure().axes[:3]:
        (crosses,) = (each for each in panel.collections if each.get_gid() == NO_VALUE)
        assert np.asarray(crosses.get_offsets()).tolist() == [[0, 1], [1, 1]]
        assert (panel.images[0].get_array()[1, :, 3] == 0).all()


def test_dots_are_told_by_what_they_mark() -> None:
    q, sure = np.array([[0.01, 0.2, 0.3]]), np.array([[0.01, 0.04, 0.9]])
    assert dotted(q, sure).endswith("(max-T): 2, 1 of them faded")
    assert dotted(sure, sure).endswith("(max-T): 2")
    assert "no cell is shown" in dotted(q, sure + 0.1)


def test_a_single_mode_keeps_its_name(tmp_path: Any) -> None:
    picture = named(made(tmp_path / "one.zarr", replace(SMALL, modes=("visible",)), Effects()))["width"]
    assert set(picture.table["mode"]) == {"visible"}
    own = picture.table[(picture.table["panel"] == "width") & (picture.table["kind"] == "prompt")]
    panel = picture.figure().axes[0]
    (lines,) = (each for each in panel.collections if isinstance(each, LineCollection))
    told = [line[["step", "value"]].to_numpy() for _, line in own.groupby("prompt")]
    assert np.array_equal(np.concatenate(lines.get_segments()), np.concatenate(told))


def test_probabilities_say_that_tokens_were_selected_with_noise(tmp_path: Any) -> None:
    for name, noisy in (("noisy", True), ("still", False)):
        of = made(tmp_path / f"{name}.zarr", SMALL, Effects(same_seeds=not noisy))
        picture = named(of)["probabilities"]
        assert ("noise" in picture.figure().axes[0].get_xlabel()) == noisy
        assert ("seeded noise" in picture.caption) == noisy


def test_positions_are_of_the_experiment_with_most_parallel_sets_in_any_mode(tmp_path: Any) -> None:
    own_sets = replace(SMALL, categories=(1, 1), parting=2)
    lost = Effects(lost=((0, None, 1),))
    cases = ((7, Effects(), {"visible"}), (1, Effects(), {"isolated", "visible"}), (1, lost, {"isolated"}))
    for i, (seed, effects, modes) in enumerate(cases):
        of = made(tmp_path / f"{i}.zarr", own_sets, effects, seed=seed)
        frame, picture = of.part.frame, named(of)["positions"]
        most = frame[frame["parallel_sets"] == frame["parallel_sets"].max()]
        assert set(most["mode"]) == modes, "the case that is meant"
        wide = picture.table[picture.table["kind"] == "parallel"]["step"].nunique()
        assert wide == most["parallel_sets"].iloc[0]
        told = "the one with the most" if len(most) == 1 else f"one of {len(most)} with as many"
        assert told in picture.caption
