import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cubes import facts, fill, grid
from tempocube.cli import console

BIN = Path(sys.executable).parent


def run(*words, cwd=None):
    """A command as a user types it: exit code, what it says, what it complains of."""
    done = subprocess.run([BIN / words[0], *map(str, words[1:])], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


BAD = {
    "prompts: {a: [x]}\ntreshold: 0.1": "2: treshold: unknown key; did you mean threshold?",
    "prompts: {a: [x]}\nthreshold: .nan": "2: threshold: must be a number above 0 and at most 1",
    "prompts: {a: [x]}\nmax_tokens: ten": '2: max_tokens: must be a whole number of at least 1 (got "ten")',
    "prompts: {}": "1: prompts: must be a mapping such as",
    "prompts: {a: [x]}\nmodes: [visable]": "2: modes[0]: must be isolated, causal, visible or single",
    "prompts:\n  a: [x, y]\n  b: [x]": '3: prompts.b[0]: the prompt "x" is already at',
    "seeds: [1]\nprompts: {a: [x]}\nseeds: [2]": "3: seeds: given twice (first on line 1)",
    "prompts_file: nowhere.txt": "nowhere.txt: no such file",
    "- a\n- b": "must be a mapping of options",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_grid_is_one_line_with_exit_code_2_and_nothing_is_created(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    code, out, err = run("tempo-capture", "grid.yaml", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("tempo-capture: ")
    assert BAD[text] in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["grid.yaml"]


def test_an_unreadable_file_a_folder_and_nothing_at_all_are_refused(tmp_path):
    (tmp_path / "grid.yaml").write_bytes(bytes(range(256)))
    for word, said in [
        ("grid.yaml", "not UTF-8 text"),
        (".", "is a folder"),
        ("none.yaml", "no such file"),
        ("seed100", "did you mean seeds100?"),
    ]:
        code, out, err = run("tempo-capture", word, "--dry-run", cwd=tmp_path)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
    code, _, err = run("tempo-capture", "--dryrun", "exp1")
    assert code == 2
    assert "No such option: --dryrun" in err


def test_a_dry_run_says_what_the_grid_asks_for(tmp_path):
    code, out, _ = run("tempo-capture", "seeds100", "--dry-run", cwd=tmp_path)
    assert code == 0
    assert "cells        100 = 10 prompts x 5 seeds x 2 modes" in out
    assert "at most 100 after the prompt, in 10 sets" in out
    assert "left         100 of 100 cells" in out
    code, out, _ = run("tempo-capture", "seeds100", "--dry-run", "--json", cwd=tmp_path)
    plan = json.loads(out)
    assert (plan["cells"], plan["forecast"]["cells"]) == (100, 100)
    assert os.listdir(tmp_path) == []


def test_presets_and_the_json_schema_can_be_listed():
    code, out, _ = run("tempo-capture", "--presets")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()][:3] == ["exp1", "exp2", "exp3"]
    code, out, _ = run("tempo-capture", "--print-schema")
    assert "threshold" in json.loads(out)["properties"]


@pytest.mark.parametrize("word", ["--help", "--presets", "--print-schema"])
def test_what_needs_no_model_imports_none(word, tmp_path):
    code = f"""
import sys
from tempocube.cli.capture import app
app([{word!r}], standalone_mode=False)
sys.stderr.write(" ".join(name for name in ("mlx", "distributed", "zarr", "numpy") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("word", ["--presets", "--print-schema"])
def test_a_reader_that_goes_away_is_no_error(word):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([BIN / "tempo-capture", word], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_one_line_and_exit_code_1(monkeypatch, capsys):
    app = typer.Typer()

    @app.command()
    def wait():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["tempo-wait"])
    with pytest.raises(SystemExit) as left:
        console.run(app, "tempo-wait")
    assert (left.value.code, capsys.readouterr().err) == (1, "tempo-wait: stopped\n")


def test_verify_says_what_is_wrong_and_exits_with_1(tmp_path):
    cube = fill(tmp_path / "a.zarr", grid(1), facts())
    code, out, _ = run("tempo-stats", "verify", tmp_path / "a.zarr")
    assert (code, out.splitlines()[0]) == (0, "4 done")
    cube.place.delete(["logits/c.0.1.1.0.0"])
    code, out, _ = run("tempo-stats", "verify", tmp_path / "a.zarr")
    assert code == 1
    assert "prompt=p0 seed=2 mode=visible: logits: the shard of rows 0.. is missing" in out
    code, out, _ = run("tempo-stats", "verify", tmp_path / "a.zarr", "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)


def test_what_is_no_cube_cannot_be_verified(tmp_path):
    (tmp_path / "file").write_text("notes")
    for name, said in [("file", "is a file; a cube is a folder"), ("nothing", "no cube there")]:
        code, out, err = run("tempo-stats", "verify", tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


@pytest.mark.parametrize("command", ["tempo-capture", "tempo-stats"])
def test_help_is_there_and_fits_a_terminal(command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
