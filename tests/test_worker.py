"""One batch on a worker: into the cube, once, with leaders read from where they are."""

import numpy as np
import pytest

import tempocube as tc
from runs import grid
from tempocube.capture import model as models
from tempocube.capture import worker
from tempocube.dataset.schema import DONE
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.errors import CubeError
from tiny import checkpoint


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(worker, "_held", {})
    monkeypatch.setattr(worker, "_loads", 0)


def job(path):
    return worker.Job(path, models.facts(path).sha256)


def driver(where, path, **options):
    return Driver(where, grid(**options), models.facts(path), 64)


def test_a_batch_goes_into_the_cube_and_is_not_done_twice(tmp_path, path):
    with driver(tmp_path / "cube.zarr", path) as run:
        tasks = run.todo()
        first = worker.compute(job(path), tasks[:4])
        second = worker.compute(job(path), tasks)
        assert (first.cells, first.skipped, second.cells, second.skipped) == (4, 0, len(tasks) - 4, 4)
        assert (first.loads, second.loads) == (1, 0)
        assert first.passes > 0
        assert first.peak_bytes > 10**8
        assert worker.compute(job(path), tasks).passes == 0
        run.fold()
        assert (run.ledger.status() == DONE).all()
    assert verify(tmp_path / "cube.zarr").ok


@pytest.mark.parametrize("folded", [False, True])
def test_a_follower_finds_its_leader_in_the_index_or_in_its_receipt(tmp_path, path, folded):
    options = {"replay": "isolated", "temperature": 0.7, "prune": {"threshold": 0.05}}
    with driver(tmp_path / "cube.zarr", path, **options) as run:
        tasks = run.todo()
        leaders = [task for task in tasks if not task.cell.replay]
        followers = [task for task in tasks if task.cell.replay]
        with pytest.raises(worker.NoLeaderError, match="mode=isolated, which this cell follows, is not done"):
            worker.compute(job(path), followers)
        worker.compute(job(path), leaders)
        if folded:
            run.fold()
        worker.compute(job(path), followers)
    cube = tc.open_cube(tmp_path / "cube.zarr")
    for name in ("token", "pruned_at", "slot_step"):
        one, other = (cube[name].sel(mode=mode).values for mode in ("isolated", "visible"))
        np.testing.assert_array_equal(one, other)


def test_a_worker_that_holds_a_model_of_other_files_loads_it_anew(tmp_path):
    found = []
    for number in range(2):
        name = str(checkpoint(tmp_path / "model", "llama", seed=number))
        with driver(tmp_path / f"{number}.zarr", name) as run:
            report = worker.compute(job(name), run.todo())
            run.fold()
        with driver(tmp_path / f"{number}-alone.zarr", name) as run:
            worker._held.clear()
            worker.compute(job(name), run.todo())
            run.fold()
        assert report.loads == 1
        assert len(worker._held) == 1
        here, alone = (tc.open_cube(tmp_path / f"{number}{end}.zarr") for end in ("", "-alone"))
        np.testing.assert_array_equal(here.digest, alone.digest)
        found.append(here.logits.values)
    assert not np.array_equal(found[0], found[1])


def test_other_files_than_the_drivers_are_refused(tmp_path, path):
    with driver(tmp_path / "cube.zarr", path) as run, pytest.raises(CubeError, match="has other files"):
        worker.compute(worker.Job(path, "0" * 64), run.todo()[:1])
