"""The five questions: each passes, fails or is not testable on cubes where that is known."""

import json
from functools import partial

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tempocube.cli.ask import ask as command
from tempocube.dataset.schema import CHECKS, FAIL
from tempocube.errors import BadInput
from tempocube.stats.tools.of_selection import correlation
from tempocube.stats.tools.questions import QUESTIONS, ask, ask_all
from test_tools import PROMPT, planted
from test_tools_tree import pruned

small = partial(planted, seeds=[1])

CURVE = {"start": 0.05, "end": 0.2, "curve": "linear"}


@pytest.fixture(scope="module")
def cube(tmp_path_factory) -> str:
    return small(tmp_path_factory.mktemp("ask") / "cube.zarr")


def moving(cell, small, weights, readout):
    """Thresholds as the grid's curve has them."""
    small["threshold_used"] = np.array([CURVE["start"] + 0.05 * step for step in range(4)])


def test_q1_passes_where_siblings_share_a_position(cube):
    found = ask(cube, "q1")
    assert (found.verdict, found.estimate, found.n) == ("pass", 1, 3)
    assert found.ci[0] == pytest.approx(0.025 ** (1 / 3))  # Clopper and Pearson: 3 prompts of 3
    assert found.details[0]["logical"] == [PROMPT + 1] * 3


def test_q1_fails_where_one_set_is_spread_over_positions_or_the_check_failed(tmp_path):
    def spread(cell, small, weights, readout):
        if cell.prompt == "prompt 1":
            small["logical"][7] += 1

    found = ask(small(tmp_path / "c.zarr", spread), "q1")
    assert found.verdict == "fail"
    assert found.estimate == pytest.approx(2 / 3)

    def red(cell, small, weights, readout):
        small["check_result"][CHECKS.index("positions")] = FAIL

    found = ask(small(tmp_path / "d.zarr", red, control="no_mask"), "q1")
    assert found.verdict == "fail"
    assert "are wrong in prompt=p0" in found.reason
    assert "control no_mask, not data" in found.reason


def test_q2_passes_where_hidden_siblings_get_exactly_0(cube):
    found = ask(cube, "q2")
    assert (found.verdict, found.estimate) == ("pass", 1)
    assert "sums to 0" in found.reason
    assert {row["hidden_weight"] for row in found.details} == {0}


def test_q2_fails_on_a_leak_and_where_visible_siblings_get_nothing(tmp_path):
    def leak(cell, small, weights, readout):
        if cell.mode == "isolated" and cell.prompt == "prompt 2":
            weights[0, 0, 5, 6] = 1e-6

    found = ask(small(tmp_path / "c.zarr", leak), "q2")
    assert (found.verdict, found.estimate) == ("fail", pytest.approx(2 / 3))

    def blind(cell, small, weights, readout):
        for own in (slice(5, 8), slice(9, 11)):
            weights[..., own, own] *= np.eye(own.stop - own.start)

    found = ask(small(tmp_path / "d.zarr", blind), "q2")
    assert (found.verdict, found.estimate) == ("fail", 1)
    assert "siblings that may be seen get nothing" in found.reason


def test_q3_tells_where_the_weight_goes_and_fails_where_some_is_missing(tmp_path):
    def known(cell, small, weights, readout):
        weights[..., 5:8, :] = weights[..., 9:11, :] = 0
        for slot in (5, 6, 7, 9, 10):
            weights[..., slot, [0, 1, 4, slot]] = [0.4, 0.3, 0.2, 0.1]
        weights[..., 5:8, 9:] = np.nan  # keys that were not fed yet

    found = ask(small(tmp_path / "c.zarr", known), "q3")
    assert (found.verdict, found.estimate) == ("pass", pytest.approx(0.9, abs=1e-6))
    shares = {row["kind"]: row["share"] for row in found.details if row.get("mode") == "isolated"}
    expected = {"sink": 0.4, "prompt": 0.3, "generated": 0.2, "own": 0.1, "siblings": 0}
    assert shares == pytest.approx(expected, abs=1e-6)
    best = [row["token"] for row in found.details if "token" in row]
    assert best[:3] == ["(first token)", " w1", " w10"]
    assert "siblings agree in 100 % of it" in found.sentence

    def half(cell, small, weights, readout):
        weights *= 0.5

    assert ask(small(tmp_path / "d.zarr", half), "q3").verdict == "fail"


def test_q4_passes_where_scores_explain_prunings_and_fails_where_one_does_not(tmp_path):
    options = {"prune": {"threshold": 0.05}, "modes": ["visible"]}
    found = ask(small(tmp_path / "c.zarr", pruned(), **options), "q4")
    assert found.verdict == "pass"
    assert found.details[0]["pruned"] == 1
    assert -1 <= found.ci[0] <= found.estimate <= found.ci[1] <= 1
    above = ask(small(tmp_path / "d.zarr", pruned(score=0.09), **options), "q4")
    assert (above.verdict, above.details[0]["unexplained"]) == ("fail", 1)
    leak = ask(small(tmp_path / "e.zarr", pruned(leak=0.01), **options), "q4")
    assert leak.verdict == "fail"
    assert "of weight later" in leak.reason


def test_the_interval_of_a_correlation_stays_within_1():
    rows = [{"prompt": f"p{i}", "correlation": r} for i, r in enumerate((0.99, 0.2, 0.999, 1.0))]
    found = correlation(rows)
    assert -1 < found.ci[0] < found.value < found.ci[1] <= 1


def test_q5_passes_on_the_formula_and_fails_off_it(tmp_path):
    found = ask(small(tmp_path / "c.zarr", moving, threshold=CURVE), "q5")
    assert found.verdict == "pass"
    slope = np.polyfit(range(4), [1, 3, 1, 2], 1)[0]
    assert found.estimate == pytest.approx(slope)
    assert found.details[0]["width"] == pytest.approx(7 / 4)
    off = ask(small(tmp_path / "d.zarr", threshold=CURVE), "q5")  # 0.1 at every step is not the curve
    assert off.verdict == "not testable"

    def back(cell, small, weights, readout):
        small["threshold_used"] = np.array([0.05, 0.15, 0.1, 0.2])

    turned = ask(small(tmp_path / "e.zarr", back, threshold=CURVE), "q5")
    assert turned.verdict == "fail"
    assert "turn back in" in turned.reason


def test_what_a_cube_cannot_tell_is_not_testable_and_says_what_it_lacks(tmp_path, cube):
    alone = small(tmp_path / "c.zarr", modes=["single"])
    told = {each.question: each for each in ask_all(alone)}
    assert {each.verdict for each in told.values()} == {"not testable"}
    assert told["q1"].reason == "no set has more than one token"
    assert "mode single" in told["q2"].reason
    assert "prune: {threshold" in ask(cube, "q4").reason
    blind = small(tmp_path / "d.zarr", capture={"attention": False})
    verdicts = {each.question: each.verdict for each in ask_all(blind, ["q1", "q2", "q3"])}
    assert verdicts == {"q1": "pass", "q2": "not testable", "q3": "not testable"}


def test_a_question_that_does_not_exist_is_refused(cube):
    with pytest.raises(BadInput, match="q6: no such question; there are q1, q2, q3, q4, q5"):
        ask(cube, "q6")


# --- the command


def run(*words: str):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words))


def test_the_command_tells_all_five_and_ends_with_0_where_none_fails(cube):
    result = run(cube)
    assert result.exit_code == 0
    for name, text in QUESTIONS.items():
        assert f"{name}  {text}" in result.output
    assert result.output.count("  PASS ") == 3
    assert result.output.count("  NOT TESTABLE ") == 2
    assert max(map(len, result.output.split("\n"))) <= 100


def test_the_command_ends_with_1_where_a_verdict_is_fail_and_its_json_says_why(tmp_path):
    def leak(cell, small, weights, readout):
        weights[..., 5, 6] = 0.1

    where = small(tmp_path / "c.zarr", leak)
    result = run(where, "q2", "q1", "q2", "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert [(each["question"], each["verdict"]) for each in told] == [("q2", "fail"), ("q1", "pass")]
    assert told[0]["details"][0]["hidden_weight"] > 0
