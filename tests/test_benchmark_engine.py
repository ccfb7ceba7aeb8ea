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


def test_memory_is_held_to_the_plan(run: dict[str, Any]) -> None:
    one, more = rows(run, "memory", "peak")
    assert 0 < one["planned_bytes"] < more["planned_bytes"]
    assert one["slots"] > 64  # a block of rows has left while the experiment went on
    for each in (one, more):
        assert 0 < each["peak_bytes"] <= each["planned_bytes"]


def test_what_an_experiment_leaves_behind_is_held_to_a_flat_line(run: dict[str, Any]) -> None:
    (grown,) = rows(run, "memory", "growth")
    assert grown["experiments"] == 8 * grown["turns"] == 64
    assert len(grown["held"]) == grown["turns"] + 1
    low, high = grown["interval"]
    assert low < PAGE / 8  # of a turn's eight: less than a page a turn is nothing that can be told
    assert high < LEAK / 10
    text = " ".join(run["text"].split())
    assert "64 experiments: " in text
    assert ("not flat, the interval" in text) is not (low <= 0 <= high)
    assert "1,000 kB are allowed: met" in text


LEAK = 50_000  # bytes an experiment
PAGE = 4096  # what a system counts memory in
LEAKING = f"""
import json, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import capturing, footprint
kept = []
def leaky():
    kept.append(b"x" * {LEAK})
    return footprint.Passing()
asked = capturing.grid("seeds100-sampled", True).to_dict()
print(json.dumps(footprint.growth("embedded", asked, 1, turns=6, sink=leaky)))
"""


def test_a_planted_leak_is_found_with_its_size(capturing: Any) -> None:
    done = subprocess.run([sys.executable, "-c", LEAKING], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    low, _ = grown["interval"]
    assert low > 0
    assert grown["slope"] == pytest.approx(LEAK, rel=0.1)
    import engine

    told, allowed = engine.growth_lines(grown)
    assert told.endswith("not flat, the interval does not include 0")
    assert allowed.endswith("met")
    assert engine.growth_lines(grown | {"interval": [low, 2e6]})[1].endswith("missed")


@pytest.mark.parametrize(
    ("held", "flat"),
    [
        ([5_000_000] * 9, True),
        ([4096 * (i % 2) for i in range(9)], True),
        ([0, 0, 0, 80_000, 80_000, 80_000, 80_000, 80_000, 80_000], True),  # a step, once
        ([4096 * i for i in range(9)], False),
        ([40_000 * i + 4096 * (i % 2) for i in range(9)], False),
        ([-40_000 * i + 4096 * (i % 2) for i in range(9)], False),
    ],
)
def test_a_line_is_flat_where_its_turns_do_not_agree_on_a_growth(
    held: list[int], flat: bool, capturing: Any
) -> None:
    import engine
    import footprint

    found = footprint.slope(held, 100)
    low, high = found["interval"]
    assert low <= found["slope"] <= high
    assert found["slope"] == (held[-1] - held[0]) / 800
    assert (low <= 0 <= high) == flat
    told, _ = engine.growth_lines(found | {"turns": 8, "experiments": 800})
    assert told.endswith("not flat, the interval does not include 0") is not flat


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [(-1, 15, "met"), (15.1, 30, "missed"), (14, 16, "cannot tell from the spread")],
)
def test_a_target_is_met_or_missed_only_where_all_rounds_agree(
    least: float, most: float, told: str, capturing: Any
) -> None:
    import engine

    assert engine.verdict({"least": least, "median": (least + most) / 2, "most": most}) == told


def test_the_110_m_shape_is_held_to_its_target(run: dict[str, Any]) -> None:
    for name in ("capture alone", "capture and a cube"):
        assert f"{name}, target at most 15 %: wall " in run["text"]


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
