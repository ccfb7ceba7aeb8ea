"""The benchmark of scale in small: start, driver, growth, and the shape of three billion parameters."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempocube.capture.model import load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def scale(folder: Path, *words: object) -> tuple[str, list[dict[str, Any]]]:
    """What it says, and its JSON lines."""
    command = [sys.executable, BENCHMARKS / "scale.py", *words, "--json", folder / "lines.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in (folder / "lines.json").read_text().splitlines()]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale as module

    return module


@pytest.mark.slow
def test_the_first_cell_and_the_share_of_the_driver_are_timed(tmp_path: Path) -> None:
    text, (machine, row) = scale(tmp_path, "--only", "first", "--repeats", 1)
    assert machine["cores"] >= 1
    assert row["seconds"][0] > 0
    assert text.startswith("first cell of seeds100: ")
    text, (_, row) = scale(tmp_path, "--only", "many", "--sizes", 6, "--workers", 1)
    assert row["done"] == row["cells"] == 6
    assert 0 < row["driver_seconds"] < row["wall"]
    assert "6 of 6 tiny cells" in text


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "sizes"), [("slots", (16, 32)), ("cells", (6,))])
def test_an_axis_of_growth_has_its_sizes_and_a_slope(
    axis: str, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    text, (_, *rows) = scale(tmp_path, "--only", "growth", "--axis", axis, "--sizes", *sizes, "--repeats", 1)
    found = [row for row in rows if row["kind"] == "size"]
    assert [row["x"] for row in found] == sorted(row["x"] for row in found)
    assert len(found) == len(sizes)
    assert all(row["seconds"]["least"] > 0 < row["bytes"]["least"] for row in found)
    assert ("slope of logarithms" in text) == (len(sizes) > 1)


def test_a_slope_is_the_power_with_which_something_grows(bench: Any) -> None:
    growth = bench.scale_growth
    rows = [
        {"x": x, "round": n, "seconds": (n + 1) * 3e-3 * x**1.5, "bytes": 7e6 * x**0.25}
        for n in range(3)
        for x in (1, 10, 100)
    ]
    *sizes, slopes = growth.summary("cells", rows)
    assert [row["x"] for row in sizes] == [1, 10, 100]
    assert slopes["seconds"]["least"] == pytest.approx(1.5)
    assert slopes["bytes"] == pytest.approx(dict.fromkeys(("median", "least", "most"), 0.25))
    assert sizes[0]["seconds"]["median"] == pytest.approx(6e-3)


@pytest.mark.parametrize("cells", [2, 10, 100, 1_000, 10_000])
def test_a_tiny_grid_has_as_many_cells_as_were_asked_for(cells: int, bench: Any) -> None:
    assert len(bench.tiny_grid(cells).cells()) == cells


@pytest.mark.slow
def test_the_shape_of_three_billion_runs_both_presets_in_small(tmp_path: Path) -> None:
    text, (_, loading, *runs) = scale(tmp_path, "--only", "3b", "--tiny", "--limit", 3, "--scratch", tmp_path)
    assert loading["peak_bytes"] > loading["weights"] > 0
    assert [row["preset"] for row in runs] == ["seeds100", "seeds100-sampled"]
    for row in runs:
        assert (row["experiments"], row["loads"], row["workers"]) == (3, 1, 1)
        assert set(row["widths"]) <= set("1234")
        assert sum(row["widths"].values()) == 3 * 10
    assert "seeds100: 3 of 100 experiments" in text
    assert "asked" not in text  # of all hundred only
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["tiny-3b"]


def test_all_hundred_are_held_to_what_was_asked(bench: Any) -> None:
    row = {"kind": "run", "preset": "seeds100", "experiments": 100, "cells": 100, "work_s": 119.0}
    row |= {"load_s": 30.0, "nodes": 300, "slots": 900, "passes": 11, "stored_bytes": 1, "widths": {"1": 1}}
    *_, told = bench.scale_3b.told(row | {"sum_bytes": 21 << 30})
    assert told.strip() == "asked: under 120 s: met; under 20 GiB: missed"
    *_, told = bench.scale_3b.told(row | {"sum_bytes": 1 << 30, "work_s": 121.0})
    assert told.strip() == "asked: under 120 s: missed; under 20 GiB: met"


def test_what_the_machine_lacks_is_named_before_anything_is_written(bench: Any, tmp_path: Path) -> None:
    shape = bench.SHAPES["3b"]
    huge = type(shape)("huge", 10_000, 240, 128, 80_000, 128_256)
    assert "GiB of memory must be free" in bench.scale_3b.lacking(huge, tmp_path)
    assert bench.scale_3b.lacking(bench.SHAPES["tiny-3b"], tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_shape_has_the_numbers_of_a_model_of_three_billion(bench: Any) -> None:
    shape = bench.SHAPES["3b"]
    assert (shape.layers, shape.heads, shape.kv_heads, shape.hidden) == (28, 24, 8, 3072)
    assert shape.parameters == pytest.approx(3.2e9, rel=0.01)


def test_a_checkpoint_in_parts_is_the_same_model(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shapes

    shape = shapes.SHAPES["tiny-3b"]
    whole = load(str(shapes.checkpoint(tmp_path / "whole", shape)))
    monkeypatch.setattr(shapes, "PART", 20_000)
    folder = shapes.checkpoint(tmp_path / "parts", shape)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index.keys() == {"metadata", "weight_map"}  # transformers refuses an index without metadata
    assert len(list(folder.glob("*.safetensors"))) > 3
    parts = load(str(folder))
    assert parts.facts.kv_heads == shape.kv_heads == 2
    drawn = dict(shapes.weights(shape))
    assert sum(weight.size for weight in drawn.values()) == shape.parameters
    for name in ("embed_tokens", "norm"):
        one, other = (getattr(model.net.model, name).weight for model in (whole, parts))
        assert np.array_equal(np.array(one), np.array(other))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--only", "4b"], "invalid choice: '4b'"),
        (["--only", "growth", "--sizes", "3"], "those of one --axis"),
        (["--scratch", "no/such/folder"], "no such folder"),
        (["--json", "no/such/folder/lines.json"], "no such folder"),
    ],
)
def test_bad_words_are_refused(
    words: list[str], told: str, bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        bench.main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
COMMANDS = sorted(set(re.findall(r"`python benchmarks/(\w+)\.py ?([^`]*)`", PAGE.read_text())))


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_the_commands_of_the_page_are_known(
    name: str, words: str, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**15))
    module = importlib.import_module(name)
    args = module.arguments([word.replace("DIR", str(tmp_path)) for word in shlex.split(words)])
    given = set(re.findall(r"--([\w-]+)", words))
    assert {word.replace("-", "_") for word in given} <= set(vars(args))
