"""The layer benchmark in small: every layer does the same work, and nothing is compared that differs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr

from cubes import fill, grid
from tempocube.dataset.grid import Grid
from tempocube.stats.diff import diff
from tiny import checkpoint

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GRID: dict[str, Any] = {
    "prompts": {"a": ["the cat sat on", "lal"]},
    "seeds": [42, 123],
    "modes": ["isolated"],
    "max_tokens": 2,
}


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import layer_ratios

    return layer_ratios


@pytest.fixture
def layering(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import layering

    return layering


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("layers")
    (folder / "scratch").mkdir()
    model = checkpoint(folder / "model", "llama")
    (folder / "grid.yaml").write_text(json.dumps(GRID))
    asked = ["--model", model, "--repeats", 1, "--sample", 2, "--only", "0", "reload", "3"]
    out = [
        "--json",
        folder / "lines.json",
        "--figure",
        folder / "layers.svg",
        "--scratch",
        folder / "scratch",
    ]
    command = [sys.executable, BENCHMARKS / "layers.py", folder / "grid.yaml", *asked, *out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / "lines.json").read_text().splitlines()]
    return {"text": done.stdout, "lines": lines, "folder": folder}


def arm(run: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [line for line in run["lines"] if line["kind"] == "arm" and line["arm"] == name]
    return dict(found)


@pytest.mark.slow
def test_loads_passes_and_nodes_are_counted_where_they_happen(run: dict[str, Any]) -> None:
    fresh, again, packed, one = (arm(run, name) for name in ("0", "reload", "3", "one seed"))
    assert [each["loads"] for each in (fresh, again, packed)] == [4, 4, 1]
    assert [each["passes"] for each in (fresh, again, packed)] == [12, 12, 3]  # a prompt and two sets
    assert packed["nodes"] == one["nodes"] < packed["slots"] == 2 * one["slots"]
    assert (packed["experiments"], packed["distinct"]) == (4, 2)
    assert fresh["nodes"] == fresh["slots"] * fresh["sampled"]


@pytest.mark.slow
def test_layer_0_starts_a_process_for_each_experiment(run: dict[str, Any]) -> None:
    fresh, again = arm(run, "0"), arm(run, "reload")
    assert (fresh["workers"], again["workers"]) == (2, 1)
    assert fresh["work_s"]["least"] > again["work_s"]["most"]
    assert "extrapolated from 2 of 4 experiments" in run["text"]


@pytest.mark.slow
def test_time_is_split_into_start_experiments_and_end(run: dict[str, Any]) -> None:
    for line in (line for line in run["lines"] if line["kind"] == "sample"):
        assert line["all_s"] == pytest.approx(line["start_s"] + line["work_s"] + line["end_s"])
        assert min(line["start_s"], line["work_s"], line["end_s"], line["load_s"]) > 0
        assert line["work_s"] * line["workers"] >= 0.99 * line["batch_s"] / line["sampled"]
        assert 0 < line["peak_bytes"] <= line["sum_bytes"]


@pytest.mark.slow
def test_what_identical_seeds_save_is_a_line_of_its_own(run: dict[str, Any]) -> None:
    (line,) = [line for line in run["lines"] if line["kind"] == "copies"]
    assert (line["experiments"], line["distinct"]) == (4, 2)
    assert line["nodes"] == line["nodes_alone"]
    assert "4 experiments are 2 distinct ones" in run["text"]


@pytest.mark.slow
def test_machine_ratios_and_targets_are_told_and_drawn(run: dict[str, Any]) -> None:
    assert {"python", "mlx", "tempocube"} <= run["lines"][0]["machine"]["versions"].keys()
    pairs = {(line["arm"], line["over"]) for line in run["lines"] if line["kind"] == "ratio"}
    assert pairs == {("reload", "0"), ("3", "0")}
    assert "20x (ours)" in run["text"]
    assert "faster" not in run["text"]
    drawn = (run["folder"] / "layers.svg").read_text()
    assert "layer 0 in one process" in drawn
    assert "over layer 0" in drawn
    assert not list((run["folder"] / "scratch").iterdir())


def rows(ratios: Any, seconds: dict[str, list[float]], **more: Any) -> list[dict[str, Any]]:
    """Samples of arms that took so many seconds, half of them to start."""
    made = []
    for name, each in seconds.items():
        for repeat, all_s in enumerate(each):
            row = dict.fromkeys((*ratios.TIMED, *ratios.COUNTED, *ratios.HELD), 1.0)
            row |= {"all_s": all_s, "start_s": all_s / 2, "work_s": all_s / 2, "end_s": 0.0, "experiments": 4}
            made.append({"kind": "sample", "arm": name, "repeat": repeat} | row | more)
    return made


def test_ratios_are_taken_within_a_round(ratios: Any) -> None:
    samples = rows(ratios, {"0": [10.0, 100.0, 30.0], "1": [5.0, 10.0, 12.0]})
    (found,) = [row for row in ratios.summary(samples, 4) if row["kind"] == "ratio"]
    assert found["all_s"] == {"median": 2.5, "least": 2.0, "most": 10.0}
    assert found["all_s_verdict"] == "met"
    assert ratios.times(found["all_s"]) == "2.5x (2-10)"


@pytest.mark.parametrize(
    ("least", "most", "low", "high"),
    [
        (2.0, 3.0, "met", "missed"),
        (1.0, 1.9, "missed", "met"),
        (1.9, 2.1, "cannot tell from the range", "cannot tell from the range"),
    ],
)
def test_a_target_is_judged_only_where_all_rounds_agree(
    least: float, most: float, low: str, high: str, ratios: Any
) -> None:
    found = {"median": (least + most) / 2, "least": least, "most": most}
    assert ratios.at_least(found, 2.0) == low
    assert ratios.at_most(found, 2.0) == high


def test_minutes_for_100_experiments_start_only_once(ratios: Any) -> None:
    samples = rows(ratios, {"1": [240.0]})
    found = {row["name"]: row for row in ratios.summary(samples, 4) if row["kind"] == "target"}
    assert found["all_s"]["measured"]["median"] == pytest.approx((120 + 120 * 25) / 60)
    assert found["all_s"]["scaled"]
    assert found["all_s"]["verdict"] == "met"


def test_a_range_of_five_rounds_holds_the_median_in_15_of_16_cases(ratios: Any) -> None:
    assert ratios.coverage(5) == 15 / 16


def notes(*own: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"pid": 1, "peak": 10, "began": 0.0, "ended": 0.0, "passes": 3, "nodes": 7} | each for each in own
    ]


def test_processes_that_follow_each_other_do_not_add_up_in_memory(layering: Any) -> None:
    driver = {"what": "process", "pid": 1, "peak": 50}
    follow = [{"what": "load", "pid": pid, "peak": pid} for pid in (20, 30)]
    assert layering.most(notes(driver, *follow)) == {"workers": [20, 30], "sum": 80}
    assert layering.most(notes(driver | {"what": "end"}, *follow)) == {"workers": [20, 30], "sum": 100}
    alone = {"what": "load", "pid": 1, "peak": 60}
    assert layering.most(notes(driver, alone)) == {"workers": [60], "sum": 60}


def test_a_sample_is_extrapolated_without_its_start(layering: Any) -> None:
    load = {"what": "load", "began": 101.0, "ended": 102.0}
    batch = {"what": "batch", "began": 102.0, "ended": 106.0}
    found = layering.sample(notes(load, batch), 100.0, 107.0, 5.0)
    assert (found["start_s"], found["work_s"], found["end_s"]) == (2.0, 20.0, 1.0)
    assert found["all_s"] == 23.0
    assert (found["loads"], found["passes"], found["nodes"]) == (5, 15, 35)


def test_a_sample_of_cells_is_the_same_in_every_round(layering: Any, tmp_path: Path) -> None:
    case = layering.Case(Grid.load("seeds100"), tmp_path, 5)
    assert case.chosen == layering.Case(Grid.load("seeds100"), tmp_path, 5).chosen == sorted(set(case.chosen))
    assert len(case.chosen) == 5
    assert layering.Case(Grid.load("seeds100"), tmp_path).chosen == list(range(100))


def test_copies_are_expected_only_where_seeds_change_nothing(layering: Any, tmp_path: Path) -> None:
    assert layering.Case(Grid.load("seeds100"), tmp_path).copies
    assert not layering.Case(Grid.load("seeds100-sampled"), tmp_path).copies


def changed(cube: Any, name: str, index: tuple[Any, ...], by: int) -> None:
    stored = zarr.open_group(str(cube.place.path), mode="r+")[name]
    stored[index] = stored[index] + by


def test_arms_that_found_the_same_agree(layering: Any, tmp_path: Path) -> None:
    one, other = (fill(tmp_path / name, grid()) for name in ("one", "other"))
    changed(other, "log_attention", (0, 0, 0, 0, 0, 0, 0), 1)  # as packing may
    case = layering.Case(grid(), tmp_path)
    layering.must_agree(case, layering.arms(2, "auto")["1"], one.place.path, other.place.path)


def test_arms_that_took_other_sets_are_not_compared(layering: Any, tmp_path: Path) -> None:
    one, other = (fill(tmp_path / name, grid()) for name in ("one", "other"))
    last = int(other.row((1, 0, 0))["length"]) - 1
    changed(other, "token", (1, 0, 0, last), 1)
    told = r"layer 2, 2 workers: prompt=p1 .* differs in its sets from set \d+ on; no ratio is shown"
    case = layering.Case(grid(), tmp_path)
    with pytest.raises(RuntimeError, match=told):
        layering.must_agree(case, layering.arms(2, "auto")["2"], one.place.path, other.place.path)


def test_arms_that_found_other_weights_are_not_compared(layering: Any, tmp_path: Path) -> None:
    one, other = (fill(tmp_path / name, grid()) for name in ("one", "other"))
    changed(other, "log_attention", (0, 1, 0, 0, 0, 0, 0), 2)
    found = layering.differs(diff(one, other), 8)
    assert found.startswith("prompt=p0 seed=2 mode=isolated differs in attention by ")
    assert found.endswith("at layer 0, head 0, query 0, key 0")


def test_an_arm_that_did_less_is_not_compared(layering: Any, tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", grid())
    part = fill(tmp_path / "part", grid(seeds=[1]))
    assert layering.differs(diff(whole, part), 4) == ""
    assert layering.differs(diff(whole, part), 8).startswith("4 of 8 experiments are done, prompt=p0 seed=2 ")
    assert "done in this arm alone" in layering.differs(diff(part, whole), 8)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--sample", "0"], "--sample must be at least 1"),
        (["--only", "4"], "invalid choice: '4'"),
        (["--figure", "layers.gif"], "must end in .svg, .png or .pdf"),
        (["--json", "no/such/folder/lines.json"], "no such folder"),
        (["seeds10"], "no such grid file or preset"),
    ],
)
def test_bad_words_are_refused_before_anything_runs(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], layering: Any
) -> None:
    import layers

    with pytest.raises(SystemExit) as left:
        layers.main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_cells_that_follow_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layering: Any
) -> None:
    import layers

    (tmp_path / "grid.yaml").write_text(json.dumps(GRID | {"replay": "isolated"}))
    with pytest.raises(SystemExit):
        layers.main([str(tmp_path / "grid.yaml")])
    assert "replay: a cell that follows another cannot run alone" in capsys.readouterr().err
