"""`tempo-stats show` as a user types it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import typer
from rich.cells import cell_len
from typer.testing import CliRunner

from tempocube.cli.show import What, show
from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, Effects
from tempocube.dataset.simulated import cube as simulated
from tempocube.errors import BadInput
from test_tools import VOCAB, planted
from test_tools_tree import captured, pruned, take  # noqa: F401 - fixtures

ODD = [f" w{i}" for i in range(VOCAB - 6)] + ["日本語の単語", "\x1b[31m", "\n", "\u202eabc", " [bold]x", "🙂"]


@pytest.fixture(scope="module")
def cube(tmp_path_factory) -> str:
    def odd(cell, small, weights, readout):
        small["token"][5:11] = np.arange(VOCAB - 6, VOCAB)

    return planted(tmp_path_factory.mktemp("show") / "cube.zarr", odd, words=ODD, threshold=[0.1, 0.05])


def run(*words: str):
    app = typer.Typer()
    app.command()(show)
    return CliRunner().invoke(app, list(words))


def test_one_screen_tells_the_experiment_its_tree_and_how_its_first_wide_set_attends(cube):
    result = run(cube, "--prompt", "p1", "--seed", "2", "--mode", "visible", "--at", "threshold=0.05")
    assert result.exit_code == 0, result.exception
    lines = result.output.split("\n")
    assert lines[0].startswith("prompt=p1 seed=2 mode=visible threshold=0.05: 4 sets, 2 of them parallel")
    assert lines[3] == "prompt 1"
    assert "step 1: 3 parallel tokens at logical position 5" in lines
    assert "step 1, mode visible: weight from each token (row) to each sibling" in lines
    assert len(lines) < 60
    assert max(map(cell_len, lines)) <= 100


@pytest.mark.parametrize(
    "what", ["overview", "tree", "heatmap", "parallel", "cross", "paths", "pruning", "layers"]
)
def test_every_look_fits_its_columns_and_is_json_too(cube, what):
    for options in (["--width", "60"], []):
        result = run(cube, "--what", what, "--mode", "visible", *options)
        assert result.exit_code == 0, result.exception
        lines = result.output.split("\n")
        assert max(map(cell_len, lines)) <= (60 if options else 100)
        assert all(c.isprintable() for line in lines for c in line)
    assert json.loads(run(cube, "--what", what, "--json").output)


@pytest.mark.parametrize("what", ["neurons", "ablation"])
def test_looks_inside_the_model_are_told_where_they_were_captured(captured, what):  # noqa: F811
    result = run(captured, "--what", what, "--at", "ablate=L0.mlp")
    assert result.exit_code == 0, result.exception
    assert {"neurons": "layer 0: the neurons most active", "ablation": "each ablation against none"}[
        what
    ] in (result.output)


def test_comparisons_are_at_the_value_of_a_swept_axis_that_was_said(tmp_path):
    def slower(cell, small, weights, readout):
        if cell.threshold == 0.05 and cell.mode == "visible":
            small["entropy"] = small["entropy"] + 1

    options = {"modes": ["single", "visible"], "threshold": [0.1, 0.05], "seeds": [1]}
    where = planted(tmp_path / "c.zarr", slower, **options)
    for value, change in (("0.1", 0), ("0.05", 1)):
        words = ["--what", "single", "--at", f"threshold={value}"]
        assert f"over prompts, at threshold={value}" in run(where, *words).output
        effects = json.loads(run(where, *words, "--json").output)["effects"]
        (entropy,) = (row["estimate"] for row in effects if row["measure"] == "entropy")
        assert entropy == pytest.approx(change, abs=1e-5)


def test_ablations_are_compared_at_the_value_of_another_axis(tmp_path):
    options = {"ablate": [None, ["L0.mlp"]], "threshold": [0.1, 0.05], "seeds": [1], "modes": ["visible"]}

    def wide(cell, small, weights, readout):
        if cell.ablate and cell.threshold == 0.05:
            small["entropy"] = small["entropy"] + 1

    where = planted(tmp_path / "c.zarr", wide, **options)
    told = run(where, "--what", "ablation", "--at", "threshold=0.05", "--json").output
    assert 1 in [pytest.approx(row["estimate"]) for row in json.loads(told)["effects"]]


def test_what_was_not_captured_is_not_shown_as_numbers(tmp_path):
    options = {"prune": {"threshold": 0.05}, "modes": ["visible"], "capture": {"attention": False}}
    told = run(planted(tmp_path / "c.zarr", pruned(), **options), "--what", "pruning").output
    assert "weight on them later: not captured" in told
    assert "too few tokens have both" in told


def test_a_simulated_cube_says_that_no_model_was_run(tmp_path):
    design = Design(categories=(1, 1), seeds=1, layers=1, heads=1)
    assert (
        "this cube is simulated: no model was run"
        in run(simulated(design, Effects(), tmp_path / "s").url).output
    )


def test_every_look_has_a_name_that_can_be_typed():
    from tempocube.stats.tools.screens import SCREENS

    assert [what.value for what in What] == list(SCREENS)


def test_the_heatmap_of_a_layer_head_and_step_is_that_of_the_cube(cube):
    options = ["--what", "heatmap", "--mode", "visible", "--layer", "2", "--head", "1", "--step", "1"]
    told = json.loads(run(cube, *options, "--json").output)
    held = open_cube(cube).attention.isel(prompt=0, seed=0, mode=1, threshold=0, layer=2, head=1).values
    np.testing.assert_allclose(np.array(told["matrix"], float), held[5:8, :11], atol=1e-6)
    assert told["source_tokens"] == ODD[-6:-3]


def test_a_long_tree_is_cut_and_says_how_to_see_it(tmp_path):
    where = planted(tmp_path / "c.zarr", widths=(3,) * 10, count=1, seeds=[1])
    assert "... 7 more lines: --what tree" in run(where).output
    assert "more lines" not in run(where, "--what", "tree").output


def test_paths_beyond_counting_are_told_by_their_power_of_ten(tmp_path):
    where = planted(tmp_path / "c.zarr", widths=(3,) * 19, count=1, seeds=[1], modes=["visible"])
    assert "about 10^9 paths, one token of each set; the best 10" in run(where, "--what", "paths").output


def test_an_experiment_without_attention_or_parallel_sets_is_still_shown(tmp_path):
    where = planted(tmp_path / "c.zarr", capture={"attention": False}, modes=["isolated", "single"])
    assert "attention was not captured" in run(where).output
    assert "nothing is parallel here" in run(where, "--mode", "single").output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prompt", "p7"], "prompt 'p7': not in this cube; it has p"),
        (["--mode", "causal"], "mode 'causal': not in this cube; it has"),
        (["--at", "temperature=1"], "has no 'temperature'; it has prompt, seed, mode, threshold"),
        (["--step", "9", "--what", "cross"], "has steps 0 to 3"),
        (["--layer", "9", "--what", "heatmap"], "layer 9: not captured; there are 0 to 2"),
        (["--what", "neurons"], "mlp_act was not captured"),
        (["--what", "single"], "standard generation is mode single"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(cube, options, told):
    error = run(cube, *options).exception
    assert isinstance(error, BadInput)
    assert told in str(error)
    assert "\n" not in str(error)


def test_a_terminal_of_ascii_gets_straight_lines_and_no_colour_in_a_pipe(cube, tmp_path):
    code = "import typer; from tempocube.cli.show import show; a = typer.Typer(); a.command()(show); a()"
    env = os.environ | {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "TERM": "xterm-256color"}
    words = [sys.executable, "-c", code, cube, "--mode", "visible", "--what", "heatmap"]
    done = subprocess.run(words, capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "\x1b" not in text
    bars = [line for line in text.split("\n") if " |" in line]
    assert len(bars) == 11
    assert len({line.index(" |") for line in bars}) == 1
    assert max(map(len, text.split("\n"))) <= 100
