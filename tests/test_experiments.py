"""Experiments 1 to 5 over cubes with known truth, and over captures of a tiny model."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from measured import FIXED
from runs import grid, tiny
from tempocube.capture.engine import capture
from tempocube.capture.wanted import Wanted
from tempocube.cli.experiment import lines, told
from tempocube.dataset.imported import bring_in
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.dataset.store import Driver
from tempocube.errors import BadInput
from tempocube.stats.legacy import export
from tempocube.stats.replication.experiments import EXPERIMENTS, experiment
from tempocube.stats.replication.result import Experiment, Measure, over_prompts
from tempocube.stats.report import report

SHAPE = Design(categories=(3, 3), seeds=1, steps=8, layers=2, heads=2)
ACTS = replace(FIXED, prompt_mode_sd=0.02, residual_sd=0.02)
Ask = Callable[..., Experiment]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Writes a simulated cube and asks one experiment of it."""

    def asked(name: str, effects: Effects = ACTS, design: Design = SHAPE, **options: Any) -> Experiment:
        cube(design, effects, tmp_path / "cube.zarr", seed=3, **options)
        return experiment(tmp_path / "cube.zarr", name)

    return asked


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Cubes that a tiny model really filled, in this process."""
    folder = tmp_path_factory.mktemp("real")
    model = tiny(folder)

    def captured(name: str, **options: Any) -> Path:
        where, asked = folder / f"{name}.zarr", grid(**options)
        longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
        with Driver(where, asked, model.facts, longest) as run:
            tasks = run.todo()
            wanted = Wanted.of(asked.capture, asked.storage, model.facts)
            capture(model, [task.cell for task in tasks], [task.writer() for task in tasks], wanted)
        return where

    return captured


def row(found: Experiment, name: str) -> Measure:
    return next(each for each in found.measures if each.name == name)


def verdicts(found: Experiment) -> list[str]:
    return [each.verdict for each in found.hypotheses]


def change(where: Path, name: str, index: Any, by: float) -> None:
    """Add to what is stored, behind the cube's back."""
    stored: Any = zarr.open_group(where, mode="r+")[name]
    stored[index] = stored[index] + np.asarray(by, stored.dtype)


def test_modes_that_differ_are_said_to(ask: Ask) -> None:
    found = ask("exp1")
    assert ": Isolated and visible attention differ: " in found.outcome
    assert verdicts(found)[:2] == ["not supported", "supported"]
    assert (row(found, "largest absolute difference").number or 0) > 0.01
    assert row(found, "mean absolute difference").n == 6


def test_a_difference_planted_in_one_layer_shows_in_that_layer_only(tmp_path: Path) -> None:
    where = tmp_path / "cube.zarr"
    cube(SHAPE, Effects(same_modes=True), where, storage={"attention": "float32"})
    change(where, "attention", (0, 0, 1, 1, 0, 6, 2), 0.01)
    by_layer, by_step = experiment(where, "exp1").series
    assert by_layer.values == (0.0, pytest.approx(0.01, rel=1e-3))
    assert [step for step, value in zip(by_step.labels, by_step.values, strict=True) if value] == [
        int(zarr.open_group(where)["slot_step"][0, 0, 1, 6])
    ]


def test_a_difference_within_the_bound_is_equivalent(tmp_path: Path) -> None:
    where = tmp_path / "cube.zarr"
    cube(SHAPE, Effects(same_modes=True), where, storage={"attention": "float32"})
    change(where, "attention", (0, 0, 1, 1, 0, 6, 2), 0.005)
    assert "are equivalent within 0.01" in experiment(where, "exp1").outcome


def test_identical_modes_say_nothing_of_visibility_without_a_treatment(ask: Ask) -> None:
    found = ask("exp1", Effects(same_modes=True))
    assert "are identical" in found.outcome
    assert "this says nothing of visibility" in found.outcome
    assert verdicts(found)[:2] == ["cannot tell", "not supported"]


@pytest.mark.parametrize(
    ("logit_sd", "which"),
    [(0.0, 0), (0.05, 0), (0.1425, 1), (3.0, 2)],
    ids=["identical", "within the bound", "the same top k", "different"],
)
def test_each_expected_outcome_has_its_cube(ask: Ask, logit_sd: float, which: int) -> None:
    found = ask("exp2", Effects(logit_sd=logit_sd), replace(SHAPE, vocab=32))
    assert [word == "supported" for word in verdicts(found)[:3]] == [i == which for i in range(3)]
    assert f": {found.hypotheses[which].hypothesis}" in found.outcome


@pytest.mark.parametrize("logit_sd", [0.05, 0.1425, 0.16, 3.0])
def test_readouts_are_judged_by_the_numbers_of_the_answer_and_the_scenario(
    tmp_path: Path, logit_sd: float
) -> None:
    cube(SHAPE, replace(ACTS, logit_sd=logit_sd), tmp_path / "cube.zarr", seed=3)
    made = report(tmp_path / "cube.zarr")
    found, answer = experiment(None, "exp2", made), made.answers.answers["logits"]
    assert row(found, "KL that the verdict rests on").number == answer.estimate
    assert answer.sentence.rstrip(".") in found.outcome
    evidence = made.answers.scenario.evidence
    tokens = evidence["same_most_probable_tokens"]
    assert row(found, "top-10 overlap that the verdict rests on").number == pytest.approx(
        tokens["jaccard_10"]
    )
    different = evidence["logits"]["level"] == "different"
    assert (verdicts(found)[1] == "supported") == (different and tokens["same"])
    assert (verdicts(found)[2] == "supported") == (different and tokens["different"])


def test_one_prompt_decides_nothing_of_readouts(ask: Ask) -> None:
    found = ask("exp2", Effects(logit_sd=3.0), replace(SHAPE, categories=(1,)))
    assert set(verdicts(found)) == {"cannot tell"}
    assert "of one prompt" in found.outcome


@pytest.mark.parametrize("same", [True, False], ids=["identical modes", "modes that differ"])
def test_of_imported_files_nothing_is_said_that_nobody_looked_at(tmp_path: Path, same: bool) -> None:
    cube(SHAPE, replace(ACTS, same_modes=same), tmp_path / "cube.zarr", seed=3)
    export(tmp_path / "cube.zarr", tmp_path / "files")
    made = report(bring_in(tmp_path / "files", tmp_path / "back.zarr").url)
    for name in ("exp1", "exp2", "exp3", "exp4"):
        found = experiment(None, name, made)
        assert set(verdicts(found)) == {"cannot tell"}, name
        assert found.outcome.startswith("Of files imported from files: ")
    assert row(experiment(None, "exp4", made), "treatment check positions").text == "not measured"
    claim = next(
        each for each in experiment(None, "replication", made).hypotheses if "bit for bit" in each.hypothesis
    )
    assert claim.verdict == "cannot tell"


def test_a_simulated_cube_says_so_and_nothing_of_rope(ask: Ask) -> None:
    found = ask("exp4")
    assert found.outcome.startswith("Of a simulated cube")
    assert set(verdicts(found)) == {"cannot tell"}
    assert row(found, "treatment check positions").note.startswith("simulated: ")


@pytest.mark.parametrize("name", ["exp1", "exp2"])
def test_a_control_is_no_data_for_any_hypothesis(ask: Ask, name: str) -> None:
    found = ask(name, replace(ACTS, control="clone", logit_sd=3.0))
    assert "of a control cube (clone), which is no data: " in found.outcome
    assert set(verdicts(found)) == {"cannot tell"}


def test_no_interval_holds_what_cannot_be() -> None:
    table = pd.DataFrame({"prompt": ["a", "b", "c"], "overlap_1": [0.0, 0.1, 1.0], "slope": [-1.0, 0.0, 2.0]})
    made = over_prompts("overlap", table, "overlap_1")
    assert made.ci == (0.0, 1.0)
    assert made.text.endswith("(95 % CI 0 to 1.00, cut at 0 and at 1)")
    free = over_prompts("slope", table, "slope")
    assert free.ci is not None
    assert free.ci[0] < -1
    assert "cut" not in free.text


def test_of_a_swept_cube_checks_and_outcome_are_of_one_value(real: Callable[..., Path]) -> None:
    where = real("swept", seeds=[1], threshold=[0.05, 0.2])
    made = report(where, at={"threshold": 0.2})
    found = experiment(None, "exp4", made)
    assert found.outcome.startswith("At threshold = 0.2: ")
    done = len(made.part.frame)
    assert row(found, "treatment check positions").text == f"{done} of {done} experiments"
    shown = told(made.with_experiments("exp4"))
    assert any(line.startswith("answers at ") and line.endswith("threshold = 0.2") for line in shown)
    assert any(line.startswith("gate ") for line in shown)
    assert len(found.listing) <= 13


def test_planted_divergence_comes_back_in_both_directions(ask: Ask) -> None:
    found = ask("exp2", Effects(logit_sd=0.1))
    assert row(found, "KL(isolated || visible)").number == pytest.approx(0.005, rel=0.02)
    assert row(found, "KL(visible || isolated)").number == pytest.approx(0.005, rel=0.1)
    assert row(found, "Jensen-Shannon divergence").number == pytest.approx(0.005 / 4, rel=0.1)
    assert [each.name for each in found.measures if each.name.startswith("overlap")] == [
        f"overlap of the top {k}" for k in (1, 5, 10, 20, 50)
    ]


def test_readouts_are_compared_up_to_the_first_set_that_differs(ask: Ask) -> None:
    found = ask("exp2", design=replace(SHAPE, parting=3))
    assert row(found, "steps compared").number == 6 * 4
    assert found.hypotheses[3].reason == "6 of 6 pairs of modes chose different sets"
    assert found.hypotheses[3].verdict == "not supported"
    assert "the first at step 3: from there on prefixes differ" in found.not_measured[0]


@pytest.mark.parametrize(
    ("cross", "expected"),
    [(math.log(2), ["not supported", "supported"]), (-6.0, ["supported", "not supported"])],
)
def test_planted_attention_among_siblings_decides_h0_and_h1(
    ask: Ask, cross: float, expected: list[str]
) -> None:
    found = ask("exp3", replace(ACTS, cross=cross, recency=0.0))
    assert verdicts(found) == [*expected, "supported"]
    ratio = row(found, "sibling over context at the same place")
    assert ratio.number == pytest.approx(math.exp(cross), rel=0.15)
    assert ratio.ci is not None
    assert row(found, "cross_parallel_score: per sibling").n == 6


def test_positions_and_cache_are_counted_and_listed(real: Callable[..., Path]) -> None:
    found = experiment(real("positions", seeds=[1]), "exp4")
    assert verdicts(found) == ["supported"] * 3
    sets = row(found, "sets one position after the last")
    assert sets.text == "30 of 30 sets"
    assert any(line.startswith("  Logical position ") and ": slots [" in line for line in found.listing)


def test_a_position_that_is_one_off_is_seen(real: Callable[..., Path]) -> None:
    where = real("off", seeds=[1], threshold=0.05)
    steps: Any = zarr.open_group(where)["slot_step"][0, 0, 0]
    change(where, "logical", (0, 0, 0, int(np.flatnonzero(steps == 1)[0])), 1)
    found = experiment(where, "exp4")
    assert verdicts(found)[0] == "not supported"
    assert found.outcome.startswith("Positions or cache are not what they should be")


def test_width_ten_is_reached_or_not(real: Callable[..., Path], ask: Ask) -> None:
    wide = {"threshold": 0.001, "max_width": 12, "max_tokens": 3, "prompts": {"a": ["the cat"]}, "seeds": [1]}
    reached = experiment(real("wide", **wide), "exp5")
    assert reached.hypotheses[0].verdict == "supported"
    assert (row(reached, "sets cut by max_width").number or 0) > 0
    narrow = ask("exp5")
    assert narrow.hypotheses[0].verdict == "not supported"
    assert narrow.hypotheses[0].reason.startswith("not reached: the widest sets are ")


def test_times_of_experiments_that_shared_passes_decide_nothing(ask: Ask) -> None:
    found = ask("exp5")
    slower = next(
        each for each in found.hypotheses if each.hypothesis.startswith("Isolated mode takes longer")
    )
    assert slower.verdict == "cannot tell"
    assert "--batch-size 1" in slower.reason


@pytest.mark.parametrize("name", ["exp1", "exp2", "exp3"])
def test_what_a_cube_lacks_is_said(ask: Ask, name: str) -> None:
    found = ask(name, capture={"attention": False, "logits": False})
    assert found.measures == ()
    assert set(verdicts(found)) == {"cannot tell"}
    assert "captured" in found.not_measured[0]


def test_one_mode_alone_is_no_error(tmp_path: Path) -> None:
    shape = replace(SHAPE, modes=("isolated",), categories=(1,))
    cube(shape, ACTS, tmp_path / "cube.zarr")
    made = report(tmp_path / "cube.zarr")
    for name in EXPERIMENTS:
        found = experiment(None, name, made)
        assert found.outcome
        assert "there is one prompt" in found.not_measured[-1]


def test_every_line_fits_and_every_value_is_plain(tmp_path: Path) -> None:
    cube(SHAPE, ACTS, tmp_path / "cube.zarr")
    made = report(tmp_path / "cube.zarr")
    for name in EXPERIMENTS:
        found = experiment(None, name, made)
        shown = lines(found)
        assert max(map(len, shown)) <= 100
        assert all(measure.name in "\n".join(shown) for measure in found.measures)
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["name"] == name


def test_tables_and_unknown_names_are_refused() -> None:
    with pytest.raises(BadInput, match="there are exp1, exp2"):
        experiment("cube.zarr", "exp6")
    table = pd.DataFrame(
        {"prompt": ["a", "b"], "category": "c", "seed": 1, "mode": "visible", "downweighting": [1.0, 2]}
    )
    with pytest.raises(BadInput, match="read from a cube"):
        experiment(table, "exp1")


def test_gaps_are_named_and_never_a_number(ask: Ask) -> None:
    for name in ("exp1", "exp3"):
        found = ask(name, Effects(nan_layer=1))
        assert "attention has gaps" in found.outcome
        assert found.measures == ()
