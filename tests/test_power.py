"""What a study needs: the promise is kept by simulated studies of that size, and the next grid gets there."""

import json
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import typer
import zarr

import tempocube as tc
from tempocube.cli.power import power as command
from tempocube.dataset import simulated
from tempocube.dataset.scenarios import SCENARIOS, Design, Effects, frame, values
from tempocube.dataset.schema import FAILED
from tempocube.errors import BadInput
from tempocube.stats import closed, effects
from tempocube.stats.effects import difference_power
from tempocube.stats.power import outlook
from tempocube.stats.spread import Spread

STUDIES = 4_000
LARGE = Design(categories=(800,), seeds=3)  # its measured components are the true ones, to 3 %
SESOI = math.log(1.1)


@pytest.fixture(scope="module")
def large():
    return outlook(frame(LARGE, Effects(), seed=1))


def aim(made, kind):
    return next(each for each in made.aims if each.kind == kind)


def studies(prompts, seeds=3, effects=None, seed=2):
    """(studies, prompts, seeds, modes) simulated responses."""
    return values(Design(categories=(prompts,), seeds=seeds), effects or Effects(), STUDIES, seed)


def test_the_components_are_those_that_were_planted(large):
    of = Effects()
    assert large.mean.between == pytest.approx(of.prompt_sd**2 + of.prompt_mode_sd**2 / 2, rel=0.12)
    assert large.mean.within == pytest.approx(of.prompt_seed_sd**2 + of.residual_sd**2 / 2, rel=0.12)
    assert large.difference.between == pytest.approx(2 * of.prompt_mode_sd**2, rel=0.3)
    assert large.difference.within == pytest.approx(2 * of.residual_sd**2, rel=0.12)


def test_so_many_prompts_give_the_half_width_and_one_fewer_does_not(large):
    needed = aim(large, "mean").needed
    assert 20 < needed < 40

    def width(prompts):
        found = closed.mean(closed.prompt_means(studies(prompts)))
        return float(np.sqrt(np.mean(((found.high - found.low) / 2) ** 2)))

    assert width(needed) <= SESOI * 1.03  # what the large study's own SD may be off
    assert width(needed - 2) > SESOI * 0.97


def test_so_many_prompts_see_the_effect_with_the_power_that_is_promised(large):
    needed = aim(large, "difference").needed
    shifted = Effects(mode={"visible": SESOI})

    def power(prompts):
        y = studies(prompts, effects=shifted)
        return float(np.mean(closed.mean((y[..., 1] - y[..., 0]).mean(axis=-1)).p < effects.ALPHA))

    error = 3 * math.sqrt(0.8 * 0.2 / STUDIES)
    assert power(needed) > 0.8 - error - 0.03
    assert power(needed - 2) < 0.8 + error


def test_so_many_prompts_show_equivalence_with_the_power_that_is_promised(large):
    needed = aim(large, "equivalence").needed

    def power(prompts):
        y = studies(prompts)
        return float(np.mean(closed.tost((y[..., 1] - y[..., 0]).mean(axis=-1), SESOI).p < effects.ALPHA))

    error = 3 * math.sqrt(0.8 * 0.2 / STUDIES)
    assert power(needed) > 0.8 - error - 0.03
    assert power(needed - 2) < 0.8 + error


def test_other_numbers_of_seeds_have_the_standard_errors_that_are_promised(large):
    for row in large.seeds:
        assert row.seeds in (1, 2, 3, 5, 10)
        y = studies(20, seeds=row.seeds)
        scale = math.sqrt(large.prompts / 20)
        assert closed.prompt_means(y).mean(axis=-1).std() == pytest.approx(row.mean * scale, rel=0.08)
        apart = (y[..., 1] - y[..., 0]).mean(axis=(-2, -1))
        assert apart.std() == pytest.approx(row.difference * scale, rel=0.08)


def test_the_range_holds_the_true_sd_19_times_in_20():
    y = studies(10, seeds=5)
    x = closed.prompt_means(y)
    truth = math.sqrt(0.25**2 + 0.05**2 / 2 + (0.10**2 + 0.10**2 / 2) / 5)
    ends = [Spread(float(square), 0.0, 5, 9).ends for square in x.var(axis=-1, ddof=1)]
    inside = np.mean([low <= truth <= high for low, high in ends])
    assert 0.94 < inside < 0.96


@pytest.mark.parametrize("sd", [0.001, 0.1, 3.0])
def test_power_is_a_number_that_grows_with_prompts_however_large_they_are(sd):
    chances = [difference_power(sd, n, SESOI) for n in (2, 5, 20, 100, 1_000, 100_000)]
    assert chances == sorted(chances)
    assert effects.ALPHA <= min(chances) <= max(chances) <= 1 + 1e-12


def test_more_prompts_are_never_the_worse_spend():
    made = outlook(frame(Design(), Effects(), seed=3))
    assert [row.seeds for row in made.seeds] == [1, 2, 5, 10]
    assert [row.prompts for row in made.seeds] == [50, 25, 10, 5]
    there = [row.mean_there for row in made.seeds]
    assert there == sorted(there)
    assert [row.mean for row in made.seeds] == sorted((row.mean for row in made.seeds), reverse=True)
    assert "Prompts are the better spend" in made.sentences[1]


def test_categories_count_themselves_where_new_ones_are_meant():
    made = outlook(frame(Design(), Effects(), seed=3))
    at_large = aim(made, "new categories")
    assert (at_large.unit, at_large.there) == ("categories", 5)
    assert at_large.now > aim(made, "mean").now
    sizes = [each for each in made.aims if each.kind == "categories"]
    assert [(each.size, each.each, each.needed) for each in sizes] == [(0.4, 16, 80), (0.8, 5, 25)]
    assert not any(each.met for each in sizes)


def test_categories_at_large_are_never_better_known_than_these_prompts():
    told = frame(Design(), Effects(), seed=3)
    told["downweighting"] -= told.groupby("category")["downweighting"].transform("mean")  # all means are 0
    made = outlook(told)
    assert aim(made, "new categories").now > aim(made, "mean").now


def test_what_is_added_brings_every_category_to_what_the_aims_need():
    made = outlook(frame(Design(categories=(2, 5)), Effects(), seed=3))
    goal = max(aim(made, kind).needed for kind in ("mean", "difference", "equivalence"))
    each = math.ceil(goal / 2)
    assert list(made.add.values()) == [each - 2, each - 5]
    enough = outlook(
        frame(Design(categories=(2, 5)), Effects(), seed=3), asked={"narrative": 500, "factual": 6}
    )
    assert enough.add == {"narrative": 0, "factual": each - 6}


def test_prompts_without_a_value_are_allowed_for():
    told = frame(Design(), Effects(), seed=3)
    whole = outlook(told)
    told.loc[told["prompt"].isin(["p0", "p2", "p4", "p6", "p8"]), "downweighting"] = np.nan
    half = outlook(told)
    assert half.prompts == 5
    goal = max(aim(half, kind).needed for kind in ("mean", "difference", "equivalence"))
    assert set(half.add.values()) == {math.ceil(2 * goal / 5) - 2}
    assert "5 of 10 prompts have no downweighting" in half.sentences[2]
    assert "have no downweighting" not in " ".join(whole.sentences)


def test_seeds_that_are_copies_buy_nothing():
    made = outlook(frame(Design(), SCENARIOS["D"], seed=3))
    assert (made.copies, made.mean.within, made.seeds) == (True, 0.0, ())
    assert made.sentences[1].startswith("Seeds are copies and buy nothing: one is enough.")


def test_modes_that_agree_leave_no_difference_to_plan():
    made = outlook(frame(Design(), SCENARIOS["C"], seed=3))
    assert made.difference is None
    assert {each.kind for each in made.aims} == {"mean", "new categories", "categories"}
    assert made.sentences[-1].startswith("Isolated and visible agree everywhere")


def test_one_seed_says_nothing_of_seeds():
    made = outlook(frame(Design(seeds=1), Effects(), seed=3))
    assert (made.mean.within, made.seeds) == (None, ())
    assert made.sentences[1].startswith("There is one seed")


def test_gaps_are_met_with_a_model_and_the_answer_hardly_moves():
    whole = outlook(frame(Design(), Effects(), seed=3))
    gaps = outlook(frame(Design(), Effects(missing=0.15), seed=3))
    assert (whole.method, gaps.method) == ("mean squares", "REML")
    assert abs(aim(whole, "mean").needed - aim(gaps, "mean").needed) <= 3


def test_where_nothing_can_be_planned_the_gate_says_why():
    assert outlook(frame(Design(categories=(1,)), Effects())).startswith("one prompt: nothing can be said")
    told = frame(Design(), Effects())
    told.attrs["control"] = "clone"
    assert "this is a control cube (clone)" in outlook(told)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"half_width": 0.0}, "half-width: 0.0: must be a number above 0"),
        ({"effect": math.nan}, "effect: nan: must be a number above 0"),
        ({"power": 1.0}, "power: 1.0: must be between 0.05 and 1"),
        ({"response": "downweight"}, "did you mean 'downweighting'?"),
    ],
)
def test_bad_options_are_one_line_that_says_what_would_be_right(options, why):
    with pytest.raises(BadInput, match=why.replace("?", r"\?")) as refused:
        outlook(frame(Design(), Effects()), **options)
    assert "\n" not in str(refused.value)


def times(modes=("isolated", "visible")):
    """Reaction times: a response that is not the log of a ratio."""
    told = frame(Design(modes=modes), Effects(), seed=3).rename(columns={"downweighting": "rt"})
    return told.assign(rt=500 + 200 * told["rt"])


def test_ten_percent_is_no_default_on_another_scale_than_that_of_logs():
    needed = "^rt: is not the log of a ratio.* give --half-width and --effect"
    for sizes in ({}, {"half_width": 40}, {"effect": 40}):
        with pytest.raises(BadInput, match=needed) as refused:
            outlook(times(), "rt", **sizes)
        assert "\n" not in str(refused.value)
    scaled = outlook(times(), "rt", half_width=200 * SESOI, effect=200 * SESOI)
    logs = outlook(frame(Design(), Effects(), seed=3))
    assert [each.needed for each in scaled.aims] == [each.needed for each in logs.aims]
    one_mode = outlook(times(modes=("isolated",)), "rt", half_width=40)  # no effect of modes to ask for
    assert "difference" not in {each.kind for each in one_mode.aims}


@pytest.mark.parametrize(
    ("half_width", "effect", "told"),
    [
        (0.0953, 0.0953, "for +-0.0953; is 0.0953 on the scale of rt? give --half-width and --effect"),
        (0.01, 0.02, "for +-0.01 (the mean), +-0.02 (modes apart, modes equivalent); are 0.01 and 0.02 on"),
        (0.0953, 10, "for +-0.0953 (the mean); is 0.0953 on"),
    ],
)
def test_what_no_study_reaches_is_called_out_of_reach(tmp_path, capsys, half_width, effect, told):
    times().to_csv(tmp_path / "times.csv")
    command(str(tmp_path / "times.csv"), response="rt", half_width=half_width, effect=effect)
    said = " ".join(capsys.readouterr().out.split())
    assert f"next out of reach: more than 100,000 prompts {told}" in said
    assert "nothing to add" not in said
    assert ("for modes apart, modes equivalent (not for categories): " in said) == (effect == 10)


def test_enough_is_said_only_where_the_aims_are_met(tmp_path, capsys):
    frame(Design(), Effects(), seed=3).to_csv(tmp_path / "table.csv")
    command(str(tmp_path / "table.csv"), half_width=2.0, effect=2.0)
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(
        "nothing to add: there are prompts enough for the mean, modes apart, modes equivalent"
    )


def test_prompts_that_were_asked_for_and_have_no_value_are_not_enough(tmp_path, capsys):
    lost = tuple((prompt, None, None) for prompt in range(2, 60))
    design = Design(categories=(60,), seeds=2, steps=6, layers=1, heads=1, vocab=32)
    where = tmp_path / "cube.zarr"
    simulated.cube(design, Effects(lost=lost), where, seed=1)
    stored = zarr.open_group(str(where), mode="r+")["status"]
    stored[2:] = FAILED
    command(str(where), half_width=1.0, effect=1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert "next 60 prompts, as asked for, would do for the mean" in said
    assert "but only 2 of them have a value" in said


@pytest.mark.parametrize(("replay", "advised"), [(None, True), ("isolated", False), ("unknown", False)])
def test_replay_is_advised_where_modes_chose_their_own_sets(replay, advised):
    told = frame(Design(), Effects(), seed=3)
    if replay != "unknown":
        told.attrs["replay"] = replay
    for effect, due in ((SESOI, advised), (2.0, False)):  # and not where the modes' aims are met
        assert ("`replay: isolated`" in " ".join(outlook(told, effect=effect).sentences)) == due


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    where = tmp_path_factory.mktemp("power") / "cube.zarr"
    design = Design(categories=(2, 2), seeds=2, steps=6, layers=1, heads=1, vocab=32)
    simulated.cube(design, Effects(), where, seed=1)
    return str(where)


def test_the_command_ends_with_what_to_type_next(cube, capsys):
    command(cube)
    out = capsys.readouterr().out
    lines = out.splitlines()
    command_line = f"tempo-capture GRID -o {cube}"
    assert max(len(line) for line in lines if command_line not in line) <= 100
    assert [line.strip() for line in lines].index(command_line) == len(lines) - 4
    added = outlook(tc.stats.measures.experiments(cube)).add
    assert lines[-3:] == [
        "prompts:",
        f"  narrative:  add {added['narrative']} to the 2 there are",
        f"  factual:    add {added['factual']} to the 2 there are",
    ]


def test_a_cube_that_is_not_finished_is_finished_first(tmp_path, capsys):
    where = tmp_path / "cube.zarr"
    design = Design(categories=(3,), seeds=2, steps=6, layers=1, heads=1, vocab=32)
    simulated.cube(design, Effects(lost=((0, 1, None),)), where, seed=1)
    command(str(where))
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said[0].split(maxsplit=1) == ["next", "2 experiments of the grid are not done yet:"]
    assert said[1].strip() == f"tempo-capture GRID -o {where}"


def test_the_command_gives_scripts_the_same_numbers(cube, capsys):
    command(cube, half_width=0.5, as_json=True)
    told = json.loads(capsys.readouterr().out)
    made = outlook(tc.stats.measures.experiments(cube), half_width=0.5)
    assert [each["needed"] for each in told["aims"]] == [each.needed for each in made.aims]
    assert told["add"] == dict(made.add)
    assert told["categories"] == {"narrative": 2, "factual": 2}
    more = sum(made.add.values())
    assert told["price"] == {
        "prompts": 4 + more,
        "more_prompts": more,
        "experiments": 4 * (4 + more),
        "more_experiments": 4 * more,
        "each": "2 seeds x 2 modes",
    }


def test_the_next_step_has_its_aims_and_its_price(cube, capsys):
    command(cube)
    more = sum(outlook(tc.stats.measures.experiments(cube)).add.values())
    assert (
        f"next for the mean, modes apart, modes equivalent (not for categories): {more:,} more prompts, "
        f"{4 + more:,} in all; with 2 seeds x 2 modes that is {4 * more:,} more experiments, "
        f"{4 * (4 + more):,} in all"
    ) in " ".join(capsys.readouterr().out.split())


def test_the_price_counts_every_value_of_a_swept_axis(tmp_path, capsys):
    told = frame(Design(), Effects(), seed=3)
    swept = pd.concat([told.assign(threshold=value) for value in (0.1, 0.2, 0.3)])
    swept.to_csv(tmp_path / "table.csv")
    command(str(tmp_path / "table.csv"), as_json=True)
    price = json.loads(capsys.readouterr().out)["price"]
    assert price["each"] == "5 seeds x 2 modes x 3 values of threshold"
    assert price["experiments"] == 30 * price["prompts"]


def test_the_command_reads_a_table_too(tmp_path, capsys):
    frame(Design(), Effects(), seed=3).to_csv(tmp_path / "table.csv")
    command(str(tmp_path / "table.csv"))
    assert "prompts to add to each category: narrative 4" in capsys.readouterr().out


def test_the_command_ends_with_1_where_the_gate_withholds_it(tmp_path, capsys):
    frame(Design(categories=(1,)), Effects()).to_csv(tmp_path / "one.csv")
    with pytest.raises(typer.Exit) as ended:
        command(str(tmp_path / "one.csv"))
    assert ended.value.exit_code == 1
    assert "nothing to plan with: one prompt" in capsys.readouterr().err


@pytest.mark.slow
def test_prompts_that_are_added_to_the_grid_are_added_to_the_cube_and_change_the_answer(tmp_path):
    prompts = {"story": ["The cat sat on the", "One day a"], "fact": ["The sun is", "Water is"]}
    options = {"threshold": 0.1, "max_tokens": 12, "temperature": 0.7, "seeds": [1, 2]}
    first = tc.run(tc.Grid.from_dict({"prompts": prompts, **options}), tmp_path / "cube.zarr", workers=1)
    few = outlook(tc.stats.measures.experiments(tmp_path / "cube.zarr"))
    more = {name: [*texts, f"Then the {name}", f"A {name} of"] for name, texts in prompts.items()}
    second = tc.run(tc.Grid.from_dict({"prompts": more, **options}), tmp_path / "cube.zarr", workers=1)
    many = outlook(tc.stats.measures.experiments(tmp_path / "cube.zarr"))
    assert (first.done, second.before, second.done) == (16, 16, 16)
    assert (few.categories, many.categories) == (Counter(story=2, fact=2), Counter(story=4, fact=4))
    assert (few.prompts, many.prompts) == (4, 8)
    assert few.mean.sd() != many.mean.sd()
    assert few.mean.ends[1] / few.mean.ends[0] > many.mean.ends[1] / many.mean.ends[0]
