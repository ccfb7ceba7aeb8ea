"""What a run is told to come to, against what it is; from config and tokenizer only."""

import json
import os
from dataclasses import replace

import pytest

from runs import grid, worked
from tempocube.capture import calibration, cluster, engine, forecast, model, selftest
from tempocube.capture.forecast import forecast as told
from tempocube.dataset.grid import Grid
from tempocube.dataset.place import Place
from tempocube.dataset.schema import FAILED, QUARANTINED
from tempocube.dataset.store import MOST_TRIES, Driver
from tempocube.errors import BadInput, CubeError
from test_calibration import PLANTED
from tiny import checkpoint


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def calibrated(path, **changes):
    """As if this machine had been calibrated, with these costs."""
    nothing = dict.fromkeys(("per_node", "per_cell", "per_file", "per_raw_byte", "per_fold"), 0.0)
    made = replace(PLANTED, **nothing | {"per_pass": 1.0, "starting": 10.0} | changes)
    calibration._keep(model.facts(path).sha256, made, lambda text: None)
    return made


def test_the_100_experiments_are_counted_without_their_model(tmp_path):
    found = told(Grid.load("seeds100"), tmp_path / "new" / "cube.zarr", workers=1)
    assert (found.cells, found.work.left, found.work.done) == (100, 100, 0)
    assert found.work.experiments == 20
    assert found.work.prompt_asked == 10 * found.work.prompt_fed
    assert found.plan.workers == 1
    assert [len(batch) for batch in found.plan.batches] == [30, 40, 30]
    lines = found.lines()
    assert lines["time"] == "unknown (--calibrate measures it)"
    assert lines["left"] == "100 of 100 cells (0 done)"
    assert "MB" in lines["raw"]
    assert lines["stored"].startswith("at most")
    assert lines["disk"].endswith("free")
    assert all(len(label) <= 12 and "\n" not in text for label, text in lines.items())
    assert not (tmp_path / "new").exists()
    assert told(Grid.load("seeds100-sampled"), workers=1).work.experiments == 100


def test_a_forecast_reads_no_weights(tmp_path):
    folder = checkpoint(tmp_path / "llama", "llama")
    (folder / "model.safetensors").write_bytes(b"these are no weights")
    with pytest.raises(BadInput):
        selftest.load(str(folder))
    assert told(grid(model=str(folder))).work.left == len(grid().cells())


def test_what_is_told_for_scripts_is_plain_json(path):
    calibrated(path)
    found = told(grid(model=path, max_tokens=[2, 4]))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain == found.to_dict()
    assert plain["raw"] == found.raw == sum(each["raw"] for each in plain["bytes"].values())
    assert plain["plan"]["worker_bytes"] == found.plan.each
    assert plain["seconds"] == found.seconds


def test_more_is_never_fed_than_was_told(path):
    asked = grid(model=path, seeds=[1, 2], temperature=0.7)
    found = told(asked, workers=1)
    _, work = worked(selftest.load(path), asked)
    assert work.nodes <= found.work.nodes_at_most
    assert found.work.nodes_expected is None
    calibrated(path, mean_width=1.0)
    assert told(asked, workers=1).work.nodes_expected < work.nodes


def test_done_and_given_up_cells_are_not_counted_again(tmp_path, path):
    asked, cube = grid(model=path), tmp_path / "cube.zarr"
    facts = model.facts(path)
    with Driver(cube, asked, facts, 64) as driver:
        tasks = driver.todo()
        for task in tasks[:2]:
            wanted = calibration.Asked.of(asked).wanted
            engine.capture(selftest.load(path), [task.cell], [task.writer()], wanted)
        driver.fold()
        driver.ledger.mark([tasks[2].index], QUARANTINED, "killed its worker")
        driver.ledger.mark([tasks[3].index], FAILED, "failed again", attempts=MOST_TRIES)
        driver.ledger.mark([tasks[4].index], FAILED, "failed once", attempts=1)
    before = {file: file.stat().st_mtime_ns for file in cube.rglob("*")}
    work = told(asked, cube).work
    assert (work.done, work.given_up, work.left) == (2, 2, len(tasks) - 4)
    more = told(grid(model=path, seeds=[42, 43]), cube).work
    assert (more.done, more.given_up, more.left) == (2, 2, 2 * len(tasks) - 4)
    with pytest.raises(CubeError, match="cannot take this grid"):
        told(grid(model=path, max_tokens=6), cube)
    assert {file: file.stat().st_mtime_ns for file in cube.rglob("*")} == before


def test_nothing_left_is_said_and_planned(tmp_path, path):
    asked = grid(model=path, modes=["single"], max_tokens=1)
    with Driver(tmp_path / "cube.zarr", asked, model.facts(path), 64) as driver:
        driver.ledger.mark([task.index for task in driver.todo()], QUARANTINED)
    calibrated(path)
    found = told(asked, tmp_path / "cube.zarr")
    assert found.plan is None
    assert found.seconds == 0
    assert found.lines()["time"] == "nothing is left to do"
    assert found.to_dict()["plan"] is None


def test_a_folder_of_other_files_is_refused_now(tmp_path, path):
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(CubeError, match="holds files that are not a cube"):
        told(grid(model=path), tmp_path)


def test_what_does_not_fit_into_memory_is_refused_with_the_sum(path, monkeypatch):
    monkeypatch.setattr(cluster, "free_here", lambda: 10**9)
    with pytest.raises(BadInput, match=r"2 workers x .* = .* free memory may be used; use --workers 1"):
        told(grid(model=path), workers=2)
    assert told(grid(model=path)).plan.workers == 1
    monkeypatch.setattr(cluster, "free_here", lambda: 10**8)
    with pytest.raises(BadInput, match="lower max_tokens"):
        told(grid(model=path))


def test_a_full_disk_is_a_warning(tmp_path, path):
    found = told(grid(model=path), tmp_path / "cube.zarr")
    assert found.warnings == ()
    short = replace(found, disk_free=found.stored - 1)
    assert "will be written, and the disk has" in short.lines()["warning 1"]
    assert short.to_dict()["warnings"] == list(short.warnings)
    most_is_there = replace(short, work=replace(found.work, left=1))
    assert most_is_there.warnings == ()
    assert forecast._disk(Place.at("s3://bucket/cube.zarr")) is None


@pytest.mark.parametrize(("workers", "rounds"), [(1, 6), (2, 3), (3, 2)])
def test_time_is_that_of_the_worker_with_the_most_to_do(path, workers, rounds):
    calibrated(path, loading=5.0)
    found = told(grid(model=path, max_tokens=3), workers=workers, batch_size=1)
    alone = 1 + 3  # the prompt's pass and three sets
    crowd = max(1, workers / 2)  # three workers take turns on two cores
    assert found.seconds == pytest.approx(10 + crowd * (5 + rounds * alone))
    assert f"--calibrate of {PLANTED.date}" in found.lines()["time"]


def test_packing_takes_the_passes_of_one_experiment(path):
    calibrated(path, loading=0.0)
    assert told(grid(model=path, max_tokens=3), workers=1).seconds == pytest.approx(10 + 4)


def test_each_number_of_sets_has_its_own_time(path):
    calibrated(path, loading=0.0)
    found = told(grid(model=path, max_tokens=[2, 5, 9]), workers=1)
    assert found.by_max_tokens == {2: pytest.approx(13), 5: pytest.approx(16), 9: pytest.approx(20)}
    assert "2: 13 s, 5: 16 s, 9: 20 s" in found.lines()["time"]
    assert told(grid(model=path, max_tokens=5)).by_max_tokens == {}


def test_a_calibration_makes_bytes_an_expectation(path):
    most = told(grid(model=path))
    calibrated(path, mean_width=1.5)
    found = told(grid(model=path))
    assert found.stored < most.stored
    assert found.lines()["stored"].startswith("about")
