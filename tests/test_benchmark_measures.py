"""The measures benchmark in small, and the LONG shape scaled down: memory stays, the second call is short."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempocube.dataset.reading import open_cube
from tempocube.dataset.store import Driver
from tempocube.stats import measures as tables

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, BENCHMARKS / "measures.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measures

    return measures


def written(bench: Any, where: Path, profile: Any, cells: int, *, logits: bool = False) -> Path:
    """The benchmark's cube, from this process."""
    grid = bench.asked(profile, cells, logits)
    with Driver(where, grid, bench.facts(profile), bench.planted.PROMPT_TOKENS[1] - 1) as driver:
        for task in driver.todo():
            bench.write_cell(profile, len(grid.seeds), task)
    return where


def test_it_writes_measures_shows_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    asked = ("--cells", 4, "--rounds", 1, "--logits", "--scratch", scratch, "--json", tmp_path / "lines.json")
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "lines.json").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run", "sample", "sample", "sample", "summary"]
    assert [line["way"] for line in lines[1:4]] == ["decode", "survey", "again"]
    about, survey, summary = lines[0], lines[2], lines[-1]
    assert (about["cells"], about["logits"]) == (4, True)
    assert 0 < about["stored_bytes"] < about["raw_bytes"]
    assert survey["defined"]
    assert summary["ratio_s"]["median"] == pytest.approx(lines[2]["s"] / lines[1]["s"])
    assert all(way in done.stdout for way in ("decode", "survey", "again", "raw float32"))
    assert not list(scratch.iterdir())


def test_every_measure_of_its_cube_is_defined(bench: Any, tmp_path: Path) -> None:
    where = written(bench, tmp_path / "cube", bench.PROFILES["tiny"], 4, logits=True)
    frame, pairs = tables.experiments(where), tables.between(where)
    assert (frame["reason"] == "").all()
    assert frame.loc[frame["mode"] == "visible", "cross_parallel"].notna().all()
    assert len(pairs) == 2
    assert (pairs["kl"] > 0).all()
    assert (pairs["attention_difference"] > 0).all()
    assert pairs["same_sets"].all()


def test_its_maps_are_softmax_maps_of_their_mode(bench: Any, tmp_path: Path) -> None:
    ds = open_cube(written(bench, tmp_path / "cube", bench.PROFILES["tiny"], 2)).load()
    weights = ds.attention.isel(prompt=0, seed=0)
    generated = ds.slot_step.isel(prompt=0, seed=0).values[0] >= 0
    assert np.allclose(weights.sum("key").values[..., generated], 1, atol=0.01)
    step = ds.slot_step.isel(prompt=0, seed=0).values[0]
    siblings = (step[:, None] == step[None, :]) & (step >= 0) & ~np.eye(step.size, dtype=bool)
    assert (weights.sel(mode="isolated").values[..., siblings] == 0).all()
    assert (weights.sel(mode="visible").values[..., siblings] > 0).all()


@pytest.mark.slow
def test_the_memory_of_a_survey_does_not_grow_with_a_long_cube(bench: Any, tmp_path: Path) -> None:
    profile = replace(bench.PROFILES["long"], layers=4, heads=8)
    few, many = (written(bench, tmp_path / str(cells), profile, cells) for cells in (2, 14))
    one, other = (bench.timed(where, "survey") for where in (few, many))
    raw = 12 * profile.layers * profile.heads * profile.slots**2 * 4
    assert raw > 150e6
    assert other["peak_bytes"] - one["peak_bytes"] < raw / 4
    assert other["peak_bytes"] < 1 << 30
    again = bench.timed(many, "again")
    assert again["cpu_s"] < 3
    assert other["cpu_s"] < 5 * bench.timed(many, "decode")["cpu_s"] + 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cells", "3"], "--cells must be even, for two modes, got 3"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--cube", "no/such/cube"], "no such folder"),
        (["--profile", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_bad_words_are_refused(
    words: list[str], told: str, bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        bench.main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err
