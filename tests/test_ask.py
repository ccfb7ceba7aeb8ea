"""The five questions: each passes, fails or is not testable on cubes where that is known."""

import json
from functools import partial

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tempocube.cli.ask import ask as command
from tempocube.dataset.imported import bring_in
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import CHECKS, FAIL, NOT_APPLICABLE
from tempocube.dataset.simulated import Design, Effects
from tempocube.dataset.simulated import cube as simulated
from tempocube.dataset.visibility import asked_rows
from tempocube.errors import BadInput
from tempocube.stats.legacy import export
from tempocube.stats.tools.asked import over
from tempocube.stats.tools.of_selection import correlation
from tempocube.stats.tools.questions import QUESTIONS, ask, ask_all
from tempocube.stats.view import view
from test_tools import PROMPT, planted
from test_tools_tree import pruned

small = partial(planted, seeds=[1])

CURVE = {"start": 0.05, "end": 0.2, "curve": "linear"}
BACK = {"start": 0.2, "end": 0.05, "curve": "linear"}
PRUNE = {"prune": {"threshold": 0.05}, "modes": ["visible"]}
RELATIVE = {"prune": {"threshold": 0.5, "relative": True}, "modes": ["visible"]}
LAST = {"capture": {"attention": {"queries": "last"}}}


@pytest.fixture(scope="module")
def cube(tmp_path_factory) -> str:
    return small(tmp_path_factory.mktemp("ask") / "cube.zarr")


def moving(cell, small, weights, readout):
    """Thresholds as the grid's curve has them."""
    small["threshold_used"] = np.array([CURVE["start"] + 0.05 * step for step in range(4)])


def last(cell, small, weights, readout):
    """The rows that `queries: last` keeps, and no other."""
    weights[..., ~asked_rows("last", small["slot_step"]), :] = np.nan


def lone(cell, small, weights, readout):
    """The second of each of four pairs is pruned by the set after the next; scores of the others differ."""
    first = np.arange(PROMPT, PROMPT + 8, 2)
    small["pruned_at"] = np.full(len(small["token"]), -1)
    small["prune_score"] = np.full(len(small["token"]), np.nan)
    small["prune_score"][first], small["prune_score"][first + 1] = [0.1, 0.4, 0.2, 0.3], 0.01
    small["pruned_at"][first + 1] = small["slot_step"][first] + 2
    for slot in first + 1:
        weights[..., small["slot_step"] >= small["pruned_at"][slot], slot] = 0


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


def test_q1_is_not_testable_where_nobody_looked_at_what_rope_applied(tmp_path):
    def unseen(cell, small, weights, readout):
        small["check_result"][CHECKS.index("positions")] = NOT_APPLICABLE

    found = ask(small(tmp_path / "c.zarr", unseen), "q1")
    assert (found.verdict, found.estimate) == ("not testable", None)
    assert "checked in 0 of 6 experiments" in found.reason

    def in_one_prompt(cell, small, weights, readout):
        if cell.prompt != "prompt 1":
            unseen(cell, small, weights, readout)

    found = ask(small(tmp_path / "d.zarr", in_one_prompt), "q1")
    assert (found.verdict, found.n) == ("pass", 1)
    assert "checked in 2 of 6 experiments" in found.reason


def test_what_no_model_was_run_for_says_so_and_its_positions_are_no_answer(tmp_path):
    made = simulated(Design(categories=(1, 1), seeds=1, layers=1, heads=1), Effects(), tmp_path / "s.zarr")
    positions, isolation = ask_all(made.url, ["q1", "q2"])
    assert positions.verdict == "not testable"
    assert "this cube is simulated: no model was run" in positions.reason
    assert "this cube is simulated: no model was run" in isolation.reason
    export(made.url, tmp_path / "files")
    positions = ask(bring_in(tmp_path / "files", tmp_path / "i.zarr").url, "q1")
    assert positions.verdict == "not testable"
    assert "this cube is imported from files" in positions.reason


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


def test_rows_that_were_not_captured_are_neither_zeros_nor_sets_of_one_token(tmp_path):
    isolation, context = ask_all(small(tmp_path / "c.zarr", last, **LAST), ["q2", "q3"])
    assert isolation.verdict == "pass"
    assert "12 of 30 rows of parallel tokens were captured and looked at" in isolation.reason
    assert context.verdict == "not testable"
    assert context.reason.startswith("the rows of all tokens of a set were not captured")


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
    found = ask(small(tmp_path / "c.zarr", pruned(), **PRUNE), "q4")
    assert found.verdict == "pass"
    assert found.details[0]["pruned"] == 1
    assert found.reason == "pruned tokens get exactly 0 later; every one scored below the bar"
    above = ask(small(tmp_path / "d.zarr", pruned(score=0.09), **PRUNE), "q4")
    assert (above.verdict, above.details[0]["unexplained"]) == ("fail", 1)
    leak = ask(small(tmp_path / "e.zarr", pruned(leak=0.01), **PRUNE), "q4")
    assert leak.verdict == "fail"
    assert "of weight later" in leak.reason


def test_q4_is_not_testable_where_no_weight_on_a_pruned_token_was_captured(tmp_path):
    found = ask(small(tmp_path / "c.zarr", pruned(), **PRUNE, capture={"attention": False}), "q4")
    assert found.verdict == "not testable"
    assert "the attention that pruned tokens get later was not captured" in found.reason

    def both(cell, small, weights, readout):
        pruned()(cell, small, weights, readout)
        last(cell, small, weights, readout)

    found = ask(small(tmp_path / "d.zarr", both, **PRUNE, **LAST), "q4")
    assert found.verdict == "pass"
    assert "exactly 0 later, in the 3 of 6 later rows that were captured" in found.reason


def test_q4_holds_relative_prunings_to_the_best_score_of_their_judgement(tmp_path):
    options = {**RELATIVE, "widths": (2, 2, 2, 2, 1, 1)}
    good = ask(small(tmp_path / "c.zarr", lone, **options), "q4")
    assert (good.verdict, good.details[0]["explained"]) == ("pass", 4)

    def above(cell, small, weights, readout):
        lone(cell, small, weights, readout)
        small["prune_score"][PROMPT + 1] = 0.09  # its bar is half of 0.1

    found = ask(small(tmp_path / "d.zarr", above, **options), "q4")
    assert (found.verdict, found.details[0]["unexplained"]) == ("fail", 1)


def test_q4_says_of_how_many_prunings_the_bar_is_not_known(tmp_path):
    def judged_again(cell, small, weights, readout):
        pruned()(cell, small, weights, readout)
        small["pruned_at"][7] = 4  # by step 3; two stay, and what step 4 says of them replaces their scores
        weights[..., 11:, 7] = 0

    where = small(tmp_path / "c.zarr", judged_again, **RELATIVE, widths=(1, 3, 1, 2, 1))
    found = ask(where, "q4")
    assert found.verdict == "not testable"
    assert "the bar is known of none" in found.reason
    followed = {**PRUNE, "modes": ["isolated", "visible"], "replay": "isolated"}

    def follower_above(cell, small, weights, readout):
        pruned(score=0.09 if cell.mode == "visible" else 0.01)(cell, small, weights, readout)

    found = ask(small(tmp_path / "d.zarr", follower_above, **followed), "q4")
    assert found.verdict == "pass"
    assert "3 scored below the bar; the bar of 3 more is not known" in found.reason


def test_q4_correlates_scores_with_attention_that_they_were_not_made_of(tmp_path):
    where = small(tmp_path / "c.zarr", lone, **PRUNE, widths=(2, 2, 2, 2, 1, 1))
    found, seen = ask(where, "q4"), view(where)
    slots = np.arange(PROMPT, PROMPT + 8, 2)
    weights, step = seen.attention(), seen.slot_step
    later = [weights[step > step[slot] + 1, slot].mean() for slot in slots]
    assert found.estimate == pytest.approx(np.corrcoef([0.1, 0.4, 0.2, 0.3], later)[0, 1])


def test_swept_axes_are_answered_at_their_first_value_unless_another_is_said(tmp_path):
    where = small(tmp_path / "c.zarr", pruned(), modes=["visible"], prune=[None, {"threshold": 0.05}])
    found = ask(where, "q4")
    assert (found.verdict, found.at) == ("not testable", {"prune": "none"})
    assert "at prune=none, there are also 0.05" in found.reason
    found = ask(where, "q4", at={"prune": "0.05"})
    assert (found.verdict, found.at, len(found.details)) == ("pass", {"prune": "0.05"}, 3)
    assert ask(open_cube(where).sel(prune=["0.05"]), "q4").verdict == "pass"
    assert len(ask(where, "q1").details) == 6  # of three prompts two sets each
    with pytest.raises(BadInput, match=r"prune=1: no such value; prune has none, 0\.05"):
        ask(where, "q4", at={"prune": 1})
    with pytest.raises(BadInput, match="'mode' is not swept; its axes are prune"):
        ask(where, "q4", at={"mode": "visible"})
    told = run(where, "q1", "--at", "prune=0.05").output
    assert "  at               prune=0.05\n" in told


def test_intervals_are_cut_where_no_value_can_be_and_say_so():
    rows = [{"prompt": f"p{i}", "x": x} for i, x in enumerate((0.9, 0.99, 0.5))]
    found = over(rows, "x", 0, 1)
    assert found.ci[1] == 1
    assert str(found).endswith(", cut at 1)")
    assert over(rows, "x").ci[1] > 1


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


def test_q5_has_a_slope_for_each_threshold_and_no_mean_of_rising_and_falling_ones(tmp_path):
    def both(cell, small, weights, readout):
        start, step = cell.threshold.start, 0.05 if cell.threshold.start < 0.1 else -0.05
        small["threshold_used"] = start + step * np.arange(4)

    where = small(tmp_path / "c.zarr", both, threshold=[CURVE, BACK], count=1)
    found = ask(where, "q5")
    assert (found.verdict, found.estimate) == ("pass", None)
    assert "by 0.1 at linear 0.05-0.2, 0.1 at linear 0.2-0.05;" in found.sentence
    one = ask(where, "q5", at={"threshold": "linear 0.2-0.05"})
    assert (one.verdict, one.at) == ("pass", {"threshold": "linear 0.2-0.05"})
    assert one.estimate == pytest.approx(np.polyfit(range(4), [1, 3, 1, 2], 1)[0])


def test_q5_is_not_testable_where_nobody_knows_the_thresholds(tmp_path):
    def unknown(cell, small, weights, readout):
        small["threshold_used"] = np.full(4, np.nan)

    found = ask(small(tmp_path / "c.zarr", unknown), "q5")
    assert found.reason == "the thresholds that were used are not in the cube"


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
