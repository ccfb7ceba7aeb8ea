"""The engine benchmark in small: every section is there, and nothing is compared that differs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempocube.capture.model import load
from tempocube.dataset.grid import Grid

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WAYS = ["no capture", "capture", "and a cube"]

pytestmark = pytest.mark.slow  # four processes load a model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "scratch").mkdir()
    asked = ["--tiny", "--threads", "1", "--json", folder / "lines.json", "--scratch", folder / "scratch"]
    command = [sys.executable, BENCHMARKS / "engine.py", *asked]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "lines.json").read_text().splitlines()]
    return {"text": done.stdout, "lines": lines, "folder": folder}


def rows(run: dict[str, Any], section: str, kind: str = "row") -> list[dict[str, Any]]:
    return [line for line in run["lines"] if line.get("section") == section and line["kind"] == kind]


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import capturing

    return capturing


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import shapes

    return shapes


def test_the_machine_and_its_blas_are_named(run: dict[str, Any]) -> None:
    about = run["lines"][0]
    assert about["kind"] == "run"
    assert about["machine"]["cores"] >= 1
    assert {"python", "mlx", "tempocube"} <= about["machine"]["versions"].keys()
    assert about["blas"] in run["text"]


def test_every_way_has_its_turn_in_every_round(run: dict[str, Any]) -> None:
    for section, cases in (("embedded", 2), ("shape110m", 1)):
        assert [row["way"] for row in rows(run, section)] == WAYS * cases
        samples = rows(run, section, "sample")
        assert len(samples) == len(WAYS) * cases * 2
        assert {sample["way"] for sample in samples[: len(WAYS)]} == set(WAYS)


def test_what_capture_and_a_cube_add_is_shown(run: dict[str, Any]) -> None:
    plain, _, cube = rows(run, "shape110m")
    assert plain["wall_added"] == {"median": 0, "least": 0, "most": 0}
    assert cube["cpu_added"]["median"] > 0
    assert cube["stored_bytes"]["least"] > 0
    assert "added to no capture" in run["text"]


def test_times_come_with_their_spread(run: dict[str, Any]) -> None:
    for row in rows(run, "embedded") + rows(run, "packing"):
        for name in ("experiments_s", "nodes_s", "wall_ms", "cpu_ms"):
            assert 0 < row[name]["least"] <= row[name]["median"] <= row[name]["most"]


def test_larger_batches_take_fewer_passes_and_nodes(run: dict[str, Any]) -> None:
    packed = rows(run, "packing")
    assert [row["way"] for row in packed] == [f"batches of {size}" for size in (1, 2, 7, 100)]
    for name in ("passes", "nodes"):
        counts = [row[name] for row in packed]
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] < counts[0]


def test_arithmetic_is_held_to_the_rate_of_the_machine(run: dict[str, Any]) -> None:
    for row in rows(run, "shape110m"):
        assert 0 < row["gflops"]["median"] < row["machine"]["median"]
        assert 0 < row["share"]["median"] < 100


def test_memory_is_held_to_the_plan_and_to_a_flat_line(run: dict[str, Any]) -> None:
    one, more = rows(run, "memory", "peak")
    assert 0 < one["planned_bytes"] < more["planned_bytes"]
    assert one["slots"] > 64  # a block of rows has left while the experiment went on
    (grown,) = rows(run, "memory", "growth")
    low, high = grown["interval"]
    assert low <= grown["slope"] <= high
    assert grown["held"][-1][0] == grown["experiments"] == 16
    assert "kB an experiment" in run["text"]


def test_nothing_stays_on_the_disk(run: dict[str, Any]) -> None:
    assert not list((run["folder"] / "scratch").iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--only", "speed"], "invalid choice: 'speed'"),
        (["--json", "no/such/folder/lines.json"], "no such folder"),
        (["--scratch", "no/such/folder"], "no such folder"),
    ],
)
def test_bad_words_are_refused_before_a_model_is_loaded(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import engine

    with pytest.raises(SystemExit) as left:
        engine.main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_the_shape_of_110_m_parameters_has_as_many(shapes: Any) -> None:
    shape = shapes.SHAPES["110m"]
    layer = 4 * shape.hidden**2 + 3 * shape.hidden * shape.neurons
    assert shape.layers * layer + shape.vocab * shape.hidden == pytest.approx(110e6, rel=0.01)


def test_operations_are_those_of_the_weights_and_of_attention(tmp_path: Path, shapes: Any) -> None:
    shape = shapes.SHAPES["tiny"]
    facts = load(str(shapes.checkpoint(tmp_path / "tiny", shape))).facts
    assert (facts.layers, facts.hidden, facts.vocab) == (shape.layers, shape.hidden, shape.vocab)
    drawn = {name: weight.size for name, weight in shapes.weights(shape) if weight.ndim == 2}
    embedding = drawn.pop("model.embed_tokens.weight")
    assert shapes.in_layers(facts) == sum(drawn.values())
    assert shapes.operations(facts, 0, 1, [3]) == 2 * embedding
    # the three nodes of one experiment see 1 + 2 + 3 slots, with a product before and one after the softmax
    attention = shapes.operations(facts, 3, 0, [3]) - 2 * 3 * shapes.in_layers(facts)
    assert attention == 2 * 2 * facts.layers * facts.hidden * (1 + 2 + 3)


def taken(capturing: Any, folder: Path, shapes: Any) -> Any:
    model = load(str(shapes.checkpoint(folder / "tiny", shapes.SHAPES["tiny"])))
    grid = Grid.from_dict({"prompts": {"a": ["Once upon a time"]}, "max_tokens": 3})
    return capturing.with_capture(capturing.Case("a case", model, grid))


def test_runs_that_took_other_sets_are_not_compared(tmp_path: Path, capturing: Any, shapes: Any) -> None:
    first = taken(capturing, tmp_path, shapes)
    capturing.must_agree("the same", first, first)
    cell, kept = next(iter(first.found.items()))
    other = type(kept)()
    token = kept.small["token"].copy()
    token[-1] += 1
    other.finish(kept.small | {"token": token})
    with pytest.raises(RuntimeError, match="changed: 'Once upon a time', seed 42, isolated: set 2 differs"):
        capturing.must_agree("changed", first, replace(first, found=first.found | {cell: other}))


def test_a_near_tie_may_part_two_runs(tmp_path: Path, capturing: Any, shapes: Any) -> None:
    first = taken(capturing, tmp_path, shapes)
    cell, kept = next(iter(first.found.items()))
    other = type(kept)()
    token, margin = kept.small["token"].copy(), kept.small["margin_kept"].copy()
    token[-1], margin[-1] = token[-1] + 1, capturing.NEAR_TIE / 2
    other.finish(kept.small | {"token": token, "margin_kept": margin})
    capturing.must_agree("a tie", first, replace(first, found=first.found | {cell: other}))


def test_runs_that_found_other_weights_are_not_compared(tmp_path: Path, capturing: Any, shapes: Any) -> None:
    first = taken(capturing, tmp_path, shapes)
    cell, kept = next(iter(first.found.items()))
    other = type(kept)()
    logs = np.asarray(kept.data["log_attention"]).copy()
    logs[0, 0, 2, 1] += 0.01
    other.write("log_attention", logs, 0)
    other.finish(kept.small)
    with pytest.raises(RuntimeError, match="weights off by"):
        capturing.must_agree("changed", first, replace(first, found=first.found | {cell: other}))
