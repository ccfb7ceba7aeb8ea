"""`tempo-capture` as a user types it: what it makes of options, what it runs, what it says at the end."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deadly
from tempocube.capture import worker
from tempocube.capture.tally import Summary
from tempocube.cli import outcome
from tempocube.cli.asked import asked
from tempocube.cli.capture import app
from tempocube.dataset.cube import Cube
from tempocube.dataset.grid import Grid
from tempocube.dataset.options import Curve
from tempocube.dataset.runlog import runs
from tempocube.dataset.schema import DONE
from tempocube.dataset.verify import verify
from tempocube.errors import BadInput
from tiny import checkpoint

COMMAND = Path(sys.executable).parent / "tempo-capture"

GRID = """\
prompts: {a: [the cat sat, lal]}
seeds: [1, 2]
threshold: 0.3
max_tokens: 4
modes: [isolated, visible]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one's own, with a grid file in a folder beside it."""
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "small.yaml").write_text(GRID)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


SMALL = "../grids/small.yaml"


def typed(*words):
    """The command in this process: exit code, what it says, what it complains of."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def planned(*words):
    code, out, _ = typed(*words, "--dry-run", "--json")
    assert code == 0
    return json.loads(out)


def refused(*words):
    """The one line with which a command is refused, before anything is there."""
    before = sorted(os.listdir())
    with pytest.raises(BadInput) as caught:
        typed(*words)
    assert sorted(os.listdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- grids made of options

CHANGES = [
    ("threshold", "0.2", 0.2),
    ("threshold", "[0.1, 0.05]", (0.1, 0.05)),
    ("threshold", "{start: 0.3, end: 0.1, curve: linear}", Curve(start=0.3, end=0.1, curve="linear")),
    ("temperature", "0.7", 0.7),
    ("temperature", "[0, 1]", (0.0, 1.0)),
    ("max_tokens", "7", 7),
    ("max_width", "3", 3),
    ("seeds", ["7", "8"], (7, 8)),
    ("modes", ["causal", "single"], ("causal", "single")),
    ("replay", "visible", "visible"),
    ("model", "org/name", "org/name"),
]


@pytest.mark.parametrize(("key", "text", "value"), CHANGES)
def test_every_option_changes_its_key_and_no_other(here, key, text, value):
    file = Grid.load(SMALL)
    grid = asked(SMALL, {key: text})
    assert getattr(grid, key) == value
    assert grid.to_dict() | {key: None} == file.to_dict() | {key: None}
    assert getattr(file, key) != value
    assert grid.name == "small"
    assert getattr(asked(None, {"prompts": ["hi"], key: text}), key) == value


def test_options_that_were_not_given_leave_the_file_as_it_is(here):
    nothing = {key: None for key, _, _ in CHANGES} | {"prompts": [], "prompts_file": None}
    assert asked(SMALL, nothing) == Grid.load(SMALL)
    assert asked("seeds100", nothing).name == "seeds100"
    assert asked("seeds100", {"seeds": ["5"]}).seeds == (5,)


def test_the_command_hands_on_what_was_typed(here):
    plan = planned("--prompt", "The cat sat", "--prompt", "lal", "--seed", 1, "--seed", 2, "--mode", "single")
    assert (plan["cells"], plan["prompts"], plan["seeds"]) == (4, {"prompt": 2}, [1, 2])
    assert (plan["modes"], plan["grid"], plan["model"]) == (["single"], "the-cat-sat", "embedded")
    plan = planned(SMALL, "--max-tokens", 3, "--max-width", 2, "--temperature", "[0, 1]", "--threshold", 0.01)
    assert (plan["sets"], plan["slots_after_the_prompt"]) == (3, 6)
    assert plan["axes"] == {"temperature": [0.0, 1.0]}
    assert (plan["cells"], plan["grid"]) == (16, "small")
    assert "replay" in refused(SMALL, "--replay", "causal")
    assert os.listdir() == []


def test_prompts_that_are_typed_replace_both_keys_of_the_file(here):
    (here.parent / "grids" / "more.txt").write_text("from the file\n")
    (here.parent / "grids" / "both.yaml").write_text("prompts: [written]\nprompts_file: more.txt\n")
    (here / "mine.txt").write_text("one\ntwo\n")
    both = "../grids/both.yaml"
    assert asked(both, {}).prompt_texts == ("written", "from the file")
    assert asked(both, {"prompts": ["typed"]}).prompt_texts == ("typed",)
    assert asked(both, {"prompts_file": ["mine.txt"]}).prompt_texts == ("one", "two")
    mixed = asked(both, {"prompts": ["typed"], "prompts_file": ["mine.txt"]})
    assert [prompt.category for prompt in mixed.prompts] == ["prompt", "mine", "mine"]


def test_a_file_without_prompts_can_be_given_some(here):
    Path("template.yaml").write_text("threshold: 0.2\n")
    assert asked("template.yaml", {"prompts": ["hi"]}).threshold == 0.2


def test_paths_that_are_typed_start_where_they_are_typed(here):
    checkpoint(here / "model", "llama")
    assert asked(SMALL, {"model": "./model"}).model == str(here / "model")
    assert asked(SMALL, {"model": "model"}).model == str(here / "model")
    assert asked(None, {"prompts": ["x"], "model": "model"}).model == str(here / "model")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("The cat sat on the", "the-cat-sat-on-the"),
        ("../../etc/passwd", "etc-passwd"),
        ("Es war einmal: Ärger", "es-war-einmal-ärger"),
        ("?!", "grid"),
        ("word " * 50, "word-word-word-word-word-word-word-word"),
    ],
)
def test_a_one_off_is_called_by_the_first_words_of_its_prompt(prompt, name):
    assert asked(None, {"prompts": [prompt, "another"]}).name == name


def test_a_one_off_of_a_prompts_file_is_called_as_the_file(here):
    Path("my_prompts.txt").write_text("one\ntwo\n")
    assert asked(None, {"prompts_file": ["my_prompts.txt"]}).name == "my_prompts"


# --- what is wrong is told by the option

WRONG = {
    ("--threshold", "2"): "--threshold: must be a number above 0 and at most 1",
    ("--threshold", "[0.1"): "--threshold: not valid YAML",
    ("--threshold", "{start: 2, end: 0.1, curve: linear}"): "--threshold.start: must be a number",
    ("--temperature", "hot"): '--temperature: must be a number of at least 0 (got "hot")',
    ("--max-tokens", "[1, 1]"): "--max-tokens[1]: is the same as item [0]",
    ("--max-width", "0"): "--max-width: must be a whole number of at least 1",
    ("--seed", "x"): "--seed[0]: must be a whole number",
    ("--mode", "visable"): "--mode[0]: must be isolated, causal, visible or single; did you mean visible?",
    ("--replay", "causal"): "--replay: must be one of this grid's modes",
    ("--model", "./none"): "--model: no such folder",
    ("--prompt", " "): "--prompt[0]: a prompt must not be empty",
    ("--prompts-file", "none.txt"): "none.txt: no such file",
    ("--workers", "0"): "--workers: must be a whole number from 1 on, or auto (got 0)",
    ("--workers", "1.5"): "--workers: must be a whole number from 1 on, or auto (got 1.5)",
    ("--batch-size", "all"): "--batch-size: must be a whole number from 1 on, or auto (got all)",
    ("--limit", "-1"): "--limit: must be a number of cells from 0 on",
    ("--cross-check", "2"): "--cross-check: must be a share of the cells from 0 to 1",
    ("--cross-check", "nan"): "--cross-check: must be a share of the cells from 0 to 1",
    ("--patience", "0"): "--patience: must be seconds, more than 0",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_option(here, words):
    assert WRONG[words] in refused(SMALL, *words)
    if not words[0].startswith("--prompt"):
        assert WRONG[words] in refused("--prompt", "hi", *words)


def test_what_is_wrong_in_the_file_still_has_its_line(here):
    Path("grid.yaml").write_text("prompts: [a]\nthreshold: 2\nreplay: isolated\n")
    assert "grid.yaml:2: threshold" in refused("grid.yaml", "--seed", "1")
    assert "grid.yaml:3: replay" in refused("grid.yaml", "--threshold", "0.5", "--mode", "visible")


def test_a_prompt_typed_twice_is_told_by_its_places(here):
    assert '"hi" is already at --prompt[0]' in refused("--prompt", "hi", "--prompt", "hi")


def test_an_empty_address_is_refused(here):
    assert "a cube needs a path or a URL" in refused(SMALL, "-o", "")


def test_no_grid_and_no_prompt_is_told_what_to_give(here):
    for words in ([], ["--threshold", "0.1"]):
        assert refused(*words).startswith("give a grid file, a preset (exp1, ")


def test_workers_cannot_be_asked_of_somebody_elses_scheduler(here):
    assert "--workers: must be auto with --scheduler" in refused(
        SMALL, "--scheduler", "tcp://127.0.0.1:1", "--workers", 2
    )


# --- what is said at the end

SUMMARY = Summary(
    where="/there/x.zarr",
    cells=100,
    before=20,
    done=70,
    left=5,
    failed={},
    quarantined={},
    seconds=125.0,
    tokens=250_000,
    stored=1_230_000_000,
    workers=(
        {"worker": "w-1", "cells": 69, "loads": 1, "peak_bytes": 610_000_000},
        {"worker": "w-2", "cells": 1, "loads": 2, "peak_bytes": 599_000_000},
    ),
    cross=None,
)


def test_the_summary_says_what_was_done_and_what_comes_next():
    assert outcome.lines(SUMMARY, "my cubes/x.zarr") == [
        "cells        70 done in 2 min 5 s, 20 done before, 5 left, of 100",
        "captured     250,000 slots, 2,000 a second; 1.23 GB",
        "workers      2",
        "  w-1: 69 cells, 1 model load, at most 610 MB of memory",
        "  w-2: 1 cell, 2 model loads, at most 599 MB of memory",
        "cube         my cubes/x.zarr",
        "next         tempo-stats verify 'my cubes/x.zarr'",
    ]


def test_of_many_failures_ten_are_listed_and_the_others_counted():
    failed = {f"prompt=p{i} seed=1 mode=visible": "ZeroDivisionError: no" for i in range(13)}
    told = outcome.lines(replace(SUMMARY, failed=failed, quarantined={"prompt=q": "killed it"}), "x.zarr")
    at = told.index("failed       13 (the same command tries again, three times in all)")
    assert told[at + 1] == "  prompt=p0 seed=1 mode=visible: ZeroDivisionError: no"
    assert told[at + 10 : at + 12] == [
        "  prompt=p9 seed=1 mode=visible: ZeroDivisionError: no",
        "  ... and 3 more",
    ]
    assert told[at + 12 : at + 14] == [
        "quarantined  1 (--retry-quarantined tries again)",
        "  prompt=q: killed it",
    ]


def test_a_cross_check_tells_its_largest_differences_and_its_json_is_json():
    cross = {"cells": 4, "attention": 2e-7, "logprob": float("nan"), "kl": float("nan")}
    summary = replace(SUMMARY, cross=cross)
    told = "4 cells captured again alone: all agree; largest differences as stored: attention 2.0e-07"
    assert f"cross-check  {told}" in outcome.lines(summary, "x")
    plain = json.loads(json.dumps(outcome.plain(summary), allow_nan=False))
    assert plain["cross"] == {"cells": 4, "attention": 2e-7, "logprob": None, "kl": None}
    assert plain["ok"] is True


def test_where_nothing_is_left_one_line_says_so_and_what_was_given_up_is_still_listed():
    nothing = replace(SUMMARY, before=100, done=0, left=0, workers=(), tokens=0)
    assert outcome.lines(nothing, "x.zarr") == ["nothing left to do: 100 of 100 cells are done in x.zarr"]
    told = outcome.lines(replace(nothing, before=99, quarantined={"prompt=q": "killed it"}), "x.zarr")
    assert told[0] == "nothing left to do: 99 of 100 cells are done in x.zarr"
    assert told[2] == "  prompt=q: killed it"


# --- real runs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.mark.slow
def test_a_one_off_runs_to_its_cube_and_the_same_command_then_has_nothing_to_do(here, model):
    words = ["--prompt", "the cat sat", "--model", model, "--max-tokens", 3, "--workers", 1]
    code, out, err = typed(*words, "--cross-check", 1)
    assert code == 0
    assert out.startswith("cells        2 done in ")
    assert "1 model load" in out
    assert "cross-check  2 cells captured again alone" in out
    assert "cube         the-cat-sat.zarr\nnext         tempo-stats verify the-cat-sat.zarr\n" in out
    assert err.startswith("starting: 2 cells")
    assert verify("the-cat-sat.zarr").ok
    assert typed(*words)[:2] == (0, "nothing left to do: 2 of 2 cells are done in the-cat-sat.zarr\n")
    code, out, _ = typed(*words, "--json")
    assert (code, json.loads(out)["before"], json.loads(out)["where"]) == (
        0,
        2,
        str(here / "the-cat-sat.zarr"),
    )
    assert typed(*words, "--quiet") == (0, "", "")


@pytest.mark.slow
def test_every_option_of_a_run_reaches_it(here, model):
    words = [SMALL, "--model", model, "--workers", 1, "-o", "x.zarr", "--json", "--quiet"]
    more = ["--limit", 1, "--batch-size", 1, "--patience", 77, "--fail-fast", "--cross-check", 0.5]
    first = json.loads(typed(*words, *more)[1])
    assert (first["done"], first["left"]) == (1, 7)
    assert runs("x.zarr")[-1]["options"] == {
        "workers": 1,
        "batch_size": 1,
        "scheduler": None,
        "limit": 1,
        "cross_check": 0.5,
        "fail_fast": True,
        "patience": 77.0,
    }
    again = json.loads(typed(*words, "--limit", 2, "--overwrite")[1])
    assert (again["before"], again["done"], again["left"]) == (0, 2, 6)


@pytest.mark.slow
def test_quarantined_cells_are_tried_again_only_when_asked(here, model, monkeypatch):
    words = ["--prompt", "lal", "--mode", "single", "--model", model, "--workers", 1, "--quiet"]
    with monkeypatch.context() as planted:
        planted.setattr(worker, "compute", deadly.kill_always)
        assert "quarantined  1 " in typed(*words)[1]
    code, out, _ = typed(*words)
    assert (code, out.splitlines()[0]) == (1, "nothing left to do: 0 of 1 cells are done in lal.zarr")
    assert typed(*words, "--retry-quarantined") == (0, "", "")


@pytest.mark.slow
def test_a_calibration_measures_first_and_then_tells_the_time_a_run_takes(here, model, monkeypatch):
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(here.parent / "cache"))
    words = ["--prompt", "the cat sat", "--model", model, "--max-tokens", 3]
    assert "time         unknown" in typed(*words, "--dry-run")[1]
    code, out, err = typed(*words, "--calibrate")
    assert code == 0
    assert "time         about " in out
    assert err != ""
    assert "time         about " in typed(*words, "--dry-run")[1]
    assert os.listdir() == []


@pytest.mark.slow
def test_cells_that_fail_are_listed_with_their_reasons_and_the_exit_code_is_1(here, model, monkeypatch):
    monkeypatch.setattr(worker, "compute", deadly.refuse)
    code, out, err = typed(SMALL, "--model", model, "--workers", 1, "--quiet", "-o", "x.zarr")
    assert (code, err) == (1, "")
    assert "cells        4 done in " in out
    assert "failed       4 " in out
    assert "  prompt=p1 seed=1 mode=isolated: ZeroDivisionError: nothing to divide by\n" in out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_is_there_and_the_same_command_goes_on(here, model, how):
    words = [COMMAND, SMALL, "--model", model, "--workers", "1", "--batch-size", "1"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in running.stderr:
        if line.startswith("running"):
            break
    # a terminal's Ctrl-C reaches all processes, a kill only the one it names
    (os.killpg if how == signal.SIGINT else os.kill)(running.pid, how)
    *_, last = running.communicate()[1].splitlines()
    done = int((Cube.open("small.zarr").status() == DONE).sum())
    assert running.returncode == 1
    assert last == f"tempo-capture: stopped; {done} of 8 cells are in small.zarr; the same command goes on"
    assert typed(SMALL, "--model", model, "--workers", 1, "--quiet") == (0, "", "")
    assert (Cube.open("small.zarr").status() == DONE).all()
    assert verify("small.zarr").ok
