"""`tempo-stats report` as a user types it: answers, or the sentence why there is none, from cubes on disk."""

import json
from math import log

import pytest
from typer.testing import CliRunner

from tempocube.cli.stats import app
from tempocube.dataset.simulated import Design, Effects, cube, frame
from test_cli import run

SMALL = {"steps": 8, "layers": 2, "heads": 2}
DESIGN = Design(categories=(2, 2, 2), seeds=2, **SMALL)


def told(path, *options):
    """What the command says and does with a cube: exit code, report.json, text."""
    result = CliRunner().invoke(app, ["report", str(path), "--no-html", *options])
    written = path.with_name(path.name + "-report") / "report.json"
    return result.exit_code, json.loads(written.read_text()), " ".join(result.output.split())


def with_p(report):
    """Names of the answers that have a p-value anywhere."""

    def any_p(value):
        if isinstance(value, dict):
            return any((key.endswith("p") and item is not None) or any_p(item) for key, item in value.items())
        return isinstance(value, list) and any(map(any_p, value))

    return {name for name, found in report["answers"].items() if any_p(found)}


def status(report, check):
    """The status of a check of the gate."""
    return next(found["status"] for found in report["gate"] if found["check"] == check)


def test_a_report_is_said_in_100_columns_and_written_beside_the_cube(tmp_path):
    cube(DESIGN, Effects(mean=log(0.5)), tmp_path / "c.zarr", seed=3)
    code, out, err = run("tempo-stats", "report", "c.zarr", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "24 of 24 experiments: 6 prompts, 3 categories, 2 seeds, modes isolated, visible" in " ".join(
        out.split()
    )
    assert "Parallel tokens receive 0.4" in out or "Parallel tokens receive 0.5" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["numbers", "c.zarr-report/report.json"],
        ["page", "c.zarr-report/index.html"],
    ]
    assert (tmp_path / "c.zarr-report" / "index.html").exists()
    first = (tmp_path / "c.zarr-report" / "report.json").read_text()
    code, out, err = run(
        "tempo-stats", "report", "c.zarr", "--only", "modes", "--json", "--no-html", cwd=tmp_path
    )
    assert (code, err) == (0, "")
    assert list(json.loads(out)["answers"]) == ["modes"]
    assert (tmp_path / "c.zarr-report" / "report.json").read_text() == first  # the file is always whole


BAD = {
    ("none.zarr",): "no cube there",
    ("none.csv",): "none.csv: no such file",
    ("c.csv", "--at", "threshold"): "--at threshold: write AXIS=VALUE, such as threshold=0.05",
    ("c.csv", "--layers", "one"): "--layers one: write numbers and ranges, such as 0,2,5-7",
    ("c.csv", "--sesoi", "-1"): "sesoi=-1.0: the smallest difference of interest is a number above 0",
    ("c.csv", "--sesoi", "1.10"): "--sesoi 1.10: downweighting is the log of a ratio; for a ratio write",
    ("c.csv", "--sesoi", "0.9x"): "--sesoi 0.9x: a ratio is above 1, such as 1.10x or 10%",
    ("c.csv", "--sesoi", "much"): "--sesoi much: write a ratio as 1.10x or 10%, or a number",
    ("c.csv", "--response", "widht"): "the frame has no column 'widht': did you mean 'width'?",
    ("c.csv", "--only", "mode"): "--only mode: there is no such answer; there are downweighting",
    ("c.csv", "--explore", "p0"): "--explore p0: a table has no steps to look at",
    ("c.csv", "--experiment", "exp6"): "--experiment exp6: there are exp1, exp2, exp3, exp4, exp5",
    ("c.csv", "--experiment", "exp1"): "--experiment: looks into a cube",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_what_is_wrong_is_one_line_and_exit_code_2(tmp_path, words):
    text = "prompt,category,seed,mode,downweighting,width\n"
    rows = [f"p{i},c{i // 2},1,{mode},{i % 3},2\n" for i in range(6) for mode in ("isolated", "visible")]
    (tmp_path / "c.csv").write_text(text + "".join(rows))
    code, out, err = run("tempo-stats", "report", *words, cwd=tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert BAD[words] in err
    assert not list(tmp_path.glob("*-report"))


def test_what_can_be_explored_is_known_before_anything_is_measured(tmp_path):
    cube(DESIGN, Effects(), tmp_path / "c.zarr", seed=3)
    for words, said in (
        (("--explore", "p0,p9"), "--explore p9: no such prompt; there are p0, p1, p2, p3, p4, p5"),
        (("-o", ""), "--out: an empty name is no folder"),
        (("-o", str(tmp_path / "c.zarr")), "c.zarr: is a cube, or in one"),
        (("-o", str(tmp_path / "c.zarr" / "zarr.json" / "x")), "is a cube, or in one"),
        (("-o", "/proc/foo"), "/proc/foo: the report cannot be written there"),
        (("--explore", "p0", "--no-html"), "--explore p0: without a page nothing can be explored"),
    ):
        result = CliRunner().invoke(app, ["report", str(tmp_path / "c.zarr"), *words])
        assert said in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr"]


def test_a_prompt_without_a_done_experiment_is_refused_before_anything_is_measured(tmp_path):
    cube(DESIGN, Effects(lost=((1, None, None),)), tmp_path / "c.zarr", seed=3)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "c.zarr"), "--explore", "p0,p1"])
    assert "--explore p1: no experiment of that prompt is done" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr"]


def test_an_experiment_is_told_instead_of_the_answers(tmp_path):
    cube(DESIGN, Effects(), tmp_path / "c.zarr", seed=3)
    code, report, text = told(tmp_path / "c.zarr", "--experiment", "exp1")
    assert code == 0
    assert "exp1: " in text
    assert report["experiments"][0]["outcome"] in text
    assert report["answers"]["category"]["sentence"] not in text


def test_seeds_that_are_copies_count_once_and_have_no_p(tmp_path):
    cube(DESIGN, Effects(same_seeds=True), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 0
    assert "selection is deterministic: seeds are copies, n is 6 not 12" in text
    assert "seeds" not in with_p(report)
    assert report["design"]["distinct_captures"] == 12
    assert report["answers"]["downweighting"]["df"] == 5.0


def test_modes_that_are_copies_are_suspect_and_never_tested(tmp_path):
    cube(DESIGN, Effects(same_modes=True), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 0
    assert "SUSPECT: isolated and visible agree to 1e-5 in all 12 pairs with parallel sets" in text
    assert status(report, "modes") == "suspect"
    assert not {"modes", "cross_parallel", "logits"} & with_p(report)
    assert report["scenario"]["verdict"] == "undetermined"
    assert report["scenario"]["default_mode"] is None


def test_without_parallel_sets_nothing_is_tested(tmp_path):
    design = Design(categories=(2, 2, 2), seeds=2, wide=0, **SMALL)
    cube(design, Effects(), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 1
    assert "no experiment has a parallel set (lower the threshold or raise the temperature)" in text
    assert with_p(report) == set()


def test_one_prompt_says_nothing_about_prompts(tmp_path):
    cube(Design(categories=(1,), seeds=3, **SMALL), Effects(), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 1
    assert "one prompt: nothing can be said about prompts in general" in text
    assert with_p(report) == set()


def test_one_prompt_in_a_category_means_no_test_of_categories(tmp_path):
    cube(Design(categories=(2, 2, 2, 1), seeds=2, **SMALL), Effects(), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 0
    assert "one prompt only in dialogue: estimates and intervals, but no test of categories" in text
    assert "category" not in with_p(report)
    assert len(report["answers"]["category"]["details"]["means"]) == 4
    assert {"downweighting", "modes"} <= with_p(report)


def test_two_prompts_a_category_are_tested_with_their_power_beside(tmp_path):
    cube(Design(seeds=1, **SMALL), Effects(), tmp_path / "c.zarr", seed=2)
    _, report, text = told(tmp_path / "c.zarr")
    found = report["answers"]["category"]
    assert found["df"] == [4.0, 5.0]
    assert 0 < found["p"] < 1
    assert found["details"]["power"]["0.4"] == pytest.approx(0.09, abs=0.005)
    assert "No category effect was shown (F(4, 5)" in text
    assert "its power is 9 % for f = 0.4, 23 % for f = 0.8" in text


def test_a_mode_whose_cells_are_all_missing_leaves_the_rest(tmp_path):
    cube(DESIGN, Effects(lost=((None, None, 1),)), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 0
    assert "there is no experiment in mode visible" in text
    assert not {"modes", "cross_parallel", "logits"} & with_p(report)
    assert "downweighting" in with_p(report)


def test_a_layer_of_nothing_is_left_out_of_the_maps_and_spoils_no_answer_in_silence(tmp_path):
    cube(DESIGN, Effects(nan_layer=1), tmp_path / "c.zarr", seed=1)
    _, report, _ = told(tmp_path / "c.zarr")
    assert "downweighting" not in with_p(report)
    assert report["answers"]["downweighting"]["not_tested"]
    code, report, _ = told(tmp_path / "c.zarr", "--layers", "0")
    assert code == 0
    assert "downweighting" in with_p(report)


def test_a_treatment_that_failed_withholds_what_it_was_for(tmp_path):
    cube(DESIGN, Effects(untreated=((0, None, 0),)), tmp_path / "c.zarr", seed=1)
    code, report, text = told(tmp_path / "c.zarr")
    assert code == 1
    assert "failed in 2 experiments" in text
    assert not {"modes", "cross_parallel", "logits"} & with_p(report)
    assert report["scenario"]["verdict"] == "undetermined"


def test_a_control_is_no_data(tmp_path):
    cube(DESIGN, Effects(control="clone"), tmp_path / "c.zarr", seed=1)
    _, report, text = told(tmp_path / "c.zarr")
    assert "this is a control cube (clone): no answer treats it as data" in text
    assert with_p(report) == set()


@pytest.mark.parametrize("written", ["1.25x", "25%", "0.22314355131420976"])
def test_a_smallest_difference_of_interest_is_a_ratio_in_words_or_its_log(tmp_path, written):
    frame(Design(), Effects(), seed=1).to_csv(tmp_path / "c.csv", index=False)
    _, report, _ = told(tmp_path / "c.csv", "--sesoi", written)
    assert report["source"]["sesoi"] == pytest.approx(0.22314355131420976)
