"""A grid on Dask workers: the same cube however it is spread, and after accidents."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

import deadly
import tempocube as tc
from runs import PROMPTS, grid
from tempocube.capture import worker
from tempocube.capture.run import run
from tempocube.dataset.cube import Cube
from tempocube.dataset.runlog import runs
from tempocube.dataset.schema import DONE, QUARANTINED
from tempocube.dataset.verify import verify
from tempocube.errors import BadInput, CubeError
from tiny import checkpoint

pytestmark = pytest.mark.slow  # every run starts processes that load a model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


def asked(path, **options):
    return grid(model=path, max_tokens=3, **options)


def test_layers_1_2_and_3_give_the_same_content(tmp_path, path):
    wanted = asked(path, temperature=0.7, seeds=[1, 2])
    cubes, loads = [], []
    for name, workers, size in (("layer1", 1, 1), ("layer2", 2, 1), ("layer3", 2, "auto")):
        summary = run(wanted, tmp_path / name, workers=workers, batch_size=size)
        assert (summary.done, summary.left, summary.ok) == (len(wanted.cells()), 0, True)
        loads.append({row["worker"]: row["loads"] for row in summary.workers})
        cubes.append(tc.open_cube(tmp_path / name).load())
        assert verify(tmp_path / name).ok
    for of_worker, workers in zip(loads, (1, 2, 2), strict=True):
        assert len(of_worker) <= workers
        assert set(of_worker.values()) == {1}
    shuffled = asked(path, temperature=0.7, seeds=[2, 1], prompts={"a": PROMPTS[::-1]})
    run(shuffled, tmp_path / "shuffled", workers=2, batch_size=1)
    cubes.append(
        tc.open_cube(tmp_path / "shuffled").load().isel(prompt=slice(None, None, -1)).sel(seed=[1, 2])
    )
    for other in cubes[1:]:
        np.testing.assert_array_equal(other.prompt_text, cubes[0].prompt_text)
        np.testing.assert_array_equal(other.path_digest, cubes[0].path_digest)
        np.testing.assert_allclose(other.attention, cubes[0].attention, atol=1e-5)
    for alone in (cubes[1], cubes[3]):  # the same company, none, and the same threads: the same bits
        np.testing.assert_array_equal(alone.digest, cubes[0].digest)


def test_a_run_goes_on_where_it_stopped_and_ends_at_once_when_nothing_is_left(tmp_path, path):
    wanted, cube = asked(path), tmp_path / "cube.zarr"
    around = dict(os.environ), vars(sys.modules["__main__"]).get("__file__"), list(sys.path)
    first = run(wanted, cube, workers=1, limit=2)
    assert around == (dict(os.environ), vars(sys.modules["__main__"]).get("__file__"), list(sys.path))
    assert (first.before, first.done, first.left) == (0, 2, len(wanted.cells()) - 2)
    second = run(wanted, cube, workers=2, batch_size=1)
    assert (second.before, second.done, second.left) == (2, len(wanted.cells()) - 2, 0)
    began = time.monotonic()
    third = run(wanted, cube, workers=1)
    assert time.monotonic() - began < 3
    assert (third.before, third.done, third.workers, third.ok) == (len(wanted.cells()), 0, (), True)


def test_a_worker_that_dies_costs_nothing_but_time(tmp_path, path, monkeypatch):
    monkeypatch.setattr(worker, "compute", deadly.kill_once)
    summary = run(asked(path), tmp_path / "cube.zarr", workers=2, batch_size=2)
    assert summary.ok
    assert (Cube.open(tmp_path / "cube.zarr").status() == DONE).all()
    assert verify(tmp_path / "cube.zarr").ok


def test_a_cell_that_always_kills_is_quarantined_and_its_mates_are_not(tmp_path, path, monkeypatch):
    wanted, cube = asked(path, modes=["isolated"]), tmp_path / "cube.zarr"
    with monkeypatch.context() as planted:
        planted.setattr(worker, "compute", deadly.kill_always)
        summary = run(wanted, cube, workers=1)
    (reason,) = summary.quarantined.values()
    assert reason.startswith("killed its worker 2 times while alone, the last time after ")
    assert (Cube.open(cube).status().ravel() == QUARANTINED).sum() == 1
    assert summary.done == len(wanted.cells()) - 1
    again = run(wanted, cube, workers=1)
    assert (again.done, again.workers, again.quarantined, again.ok) == (0, (), summary.quarantined, False)
    assert run(wanted, cube, workers=1, retry_quarantined=True).ok


def test_a_cell_that_fails_says_why_and_is_tried_three_times_in_all(tmp_path, path, monkeypatch):
    wanted, cube = asked(path, modes=["isolated"]), tmp_path / "cube.zarr"
    monkeypatch.setattr(worker, "compute", deadly.refuse)
    for done, logs in ((2, 1), (0, 2), (0, 3), (0, 3)):  # the fourth time there is nothing left to try
        summary = run(wanted, cube, workers=1)
        assert (summary.done, summary.left) == (done, 0)
        assert list(summary.failed.values()) == ["ZeroDivisionError: nothing to divide by"]
        assert len(runs(cube)) == logs


def test_fail_fast_stops_at_the_first_failure_and_the_rest_is_left(tmp_path, path, monkeypatch):
    monkeypatch.setattr(worker, "compute", deadly.refuse)
    wanted = asked(path, prompts={"a": ["lal", "one", "two", "three"]}, modes=["isolated"])
    summary = run(wanted, tmp_path / "cube.zarr", workers=1, batch_size=1, fail_fast=True)
    assert (len(summary.failed), summary.left) == (1, 3)
    monkeypatch.undo()
    assert run(wanted, tmp_path / "cube.zarr", workers=1).ok


def test_the_log_says_who_did_what_and_how_a_run_ended(tmp_path, path, monkeypatch):
    wanted, cube = asked(path), tmp_path / "cube.zarr"
    summary = run(wanted, cube, workers=2, batch_size=2)
    monkeypatch.setattr(worker, "compute", deadly.refuse_all)
    with pytest.raises(CubeError, match="the disk is on fire"):
        run(asked(path, seeds=[42, 43]), cube, workers=1)
    first, second = runs(cube)
    assert (first["state"], first["done"], first["cells"]) == ("finished", 6, 6)
    assert second["state"] == "the disk is on fire"
    assert first["ended"] >= first["began"]
    assert sum(row["cells"] for row in first["workers"]) == 6
    assert sum(row["bytes"] for row in first["workers"]) == first["bytes"] == summary.stored > 0
    for row in first["workers"]:
        assert row["passes"] > 0
        assert row["nodes"] >= row["passes"]
        assert row["loads"] == 1
        assert row["peak_bytes"] > 10**8
    by_cell = tc.open_cube(cube).worker.sel(seed=42).values.ravel().tolist()
    assert {row["worker"]: by_cell.count(row["worker"]) for row in first["workers"]} == {
        row["worker"]: row["cells"] for row in first["workers"]
    }


def test_followers_that_had_to_travel_alone_come_after_their_leader(tmp_path, path):
    wanted = asked(path, replay="isolated", modes=["visible", "isolated"], temperature=0.7)
    assert run(wanted, tmp_path / "cube.zarr", workers=2, batch_size=1).ok
    cube = tc.open_cube(tmp_path / "cube.zarr")
    one, other = (cube.token.sel(mode=mode).values for mode in ("isolated", "visible"))
    np.testing.assert_array_equal(one, other)


def test_a_limit_takes_leaders_before_those_that_follow_them(tmp_path, path):
    wanted = asked(path, replay="isolated", modes=["visible", "isolated"])
    for number in (1, 2):
        summary = run(wanted, tmp_path / "cube.zarr", workers=1, limit=1)
        assert (summary.done, summary.ok, summary.left) == (1, True, 6 - number)
    assert run(wanted, tmp_path / "cube.zarr", workers=1).left == 0


def test_those_that_follow_a_quarantined_cell_wait_and_lose_no_try(tmp_path, path, monkeypatch):
    wanted, cube = asked(path, replay="isolated", modes=["visible", "isolated"]), tmp_path / "cube.zarr"
    with monkeypatch.context() as planted:
        planted.setattr(worker, "compute", deadly.kill_leaders)
        for done in (4, 0):
            summary = run(wanted, cube, workers=1)
            assert (summary.done, summary.left, len(summary.quarantined)) == (done, 1, 1)
            assert not summary.failed
    assert len(runs(cube)) == 1  # the second time there was nothing that could be tried
    healed = run(wanted, cube, workers=1, retry_quarantined=True)
    assert (healed.done, healed.left, healed.ok) == (2, 0, True)


@pytest.mark.parametrize("what", [deadly.stand_still_once, deadly.kill_after])
def test_what_is_no_fault_of_a_cell_is_not_held_against_it(tmp_path, path, monkeypatch, what):
    monkeypatch.setattr(worker, "compute", what)
    summary = run(asked(path, modes=["isolated"]), tmp_path / "cube.zarr", workers=1)
    assert (summary.done, summary.left, summary.ok) == (3, 0, True)
    assert (Cube.open(tmp_path / "cube.zarr").read("attempts") == 1).all()


def test_a_script_needs_no_main_guard(tmp_path, path):
    script = tmp_path / "script.py"
    options = {"model": path, "prompts": {"a": ["lal"]}, "max_tokens": 2}
    script.write_text(
        f"import tempocube as tc\ngrid = tc.Grid.from_dict({options!r})\n"
        f"print(tc.run(grid, {str(tmp_path / 'cube.zarr')!r}, workers=1).done, __file__)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, f"2 {script}\n"), done.stderr


@pytest.mark.parametrize("workers", [0, -1, "many", 1.5])
def test_workers_are_a_number_or_auto(tmp_path, path, workers):
    with pytest.raises(BadInput, match="workers: a number from 1 on, or auto"):
        tc.run(asked(path), tmp_path / "cube.zarr", workers=workers)
    with pytest.raises(BadInput, match="batch_size: a number from 1 on, or auto"):
        tc.run(asked(path), tmp_path / "cube.zarr", workers=1, batch_size=0)
