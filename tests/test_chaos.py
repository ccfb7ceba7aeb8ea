"""Whatever dies, hangs or runs out while a grid runs: the same call goes on, and the content is the same."""

import os
import random
import threading
import time

import numpy as np
import psutil
import pytest

import deadly
import tempocube as tc
from runs import grid
from tempocube.capture import worker
from tempocube.capture.run import run
from tempocube.dataset.runlog import runs
from tempocube.dataset.verify import verify
from tiny import checkpoint

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TEMPOCUBE_KILLS", "4"))  # 20 for a thorough look


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


def asked(path, **options):
    return grid(**{"model": path, "max_tokens": 3, "temperature": 0.7} | options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, path):
    """What the grid of the kill test comes to when nobody kills."""
    where = tmp_path_factory.mktemp("calm") / "cube.zarr"
    assert run(asked(path, seeds=list(range(8))), where, workers=1, progress=None).ok
    return tc.open_cube(where).load()


def same_content(where, calm):
    assert verify(where).ok
    cube = tc.open_cube(where)
    np.testing.assert_array_equal(cube.path_digest, calm.path_digest)
    np.testing.assert_allclose(cube.attention, calm.attention, atol=1e-5)


def workers_of(process):
    """Processes of this one that compute: started by spawn, and no helper of multiprocessing."""
    found = []
    for child in process.children(recursive=True):
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "spawn_main" in words:
            found.append(child)
    return found


class Killer(threading.Thread):
    """Kills a worker of this process now and then, so many times."""

    def __init__(self, kills):
        super().__init__(daemon=True)
        self.left, self.done = kills, threading.Event()
        self.random = random.Random(7)

    def run(self):
        while self.left and not self.done.wait(self.random.uniform(0.2, 3)):
            if there := workers_of(psutil.Process()):
                self.random.choice(there).kill()
                self.left -= 1


def test_workers_killed_at_random_cost_nothing_but_time(tmp_path, path, undisturbed, monkeypatch):
    monkeypatch.setattr(worker, "compute", deadly.slowly)
    wanted, cube = asked(path, seeds=list(range(8))), tmp_path / "cube.zarr"
    killer = Killer(KILLS)
    killer.start()
    for _ in range(50):  # kills may outlast the cells: then the cells are asked again
        summary = run(wanted, cube, workers=2, batch_size=4, retry_quarantined=True, progress=None)
        if not killer.left:
            break
        if summary.left == 0 and summary.ok:
            wanted = asked(path, seeds=[*wanted.seeds, len(wanted.seeds)])
    killer.done.set()
    assert killer.left == 0
    final = run(asked(path, seeds=list(range(8))), cube, workers=2, retry_quarantined=True, progress=None)
    assert (final.left, final.ok) == (0, True)
    assert verify(cube).ok
    cube = tc.open_cube(cube).isel(seed=slice(8))
    np.testing.assert_array_equal(cube.path_digest, undisturbed.path_digest)
    np.testing.assert_allclose(cube.attention, undisturbed.attention.reindex_like(cube.attention), atol=1e-5)


def test_a_worker_that_hangs_is_ended_and_its_cell_quarantined(tmp_path, path, monkeypatch):
    wanted, cube = asked(path, modes=["isolated"]), tmp_path / "cube.zarr"
    with monkeypatch.context() as planted:
        planted.setattr(worker, "compute", deadly.hang)
        summary = run(wanted, cube, workers=1, patience=2, progress=None)
    (reason,) = summary.quarantined.values()
    assert reason.startswith("killed its worker 2 times while alone")
    assert reason.endswith(": no forward pass for 2 s")
    assert summary.done == 2
    assert runs(cube)[0]["batches_lost"] >= 2
    assert run(wanted, cube, workers=1, retry_quarantined=True, progress=None).ok


def test_a_cell_that_needs_too_much_memory_fails_alone(tmp_path, path, monkeypatch):
    wanted, cube = asked(path, modes=["isolated"]), tmp_path / "cube.zarr"
    with monkeypatch.context() as planted:
        planted.setattr(worker, "compute", deadly.exhaust)
        summary = run(wanted, cube, workers=1, progress=None)
    (reason,) = summary.failed.values()
    assert reason.startswith("MemoryError")
    assert summary.done == 2
    assert run(wanted, cube, workers=1, progress=None).ok


def test_a_stopped_worker_is_replaced(tmp_path, path, monkeypatch):
    monkeypatch.setattr(worker, "compute", deadly.stop_once)
    monkeypatch.setattr("tempocube.capture.cluster.SILENCE", 3.0)
    began = time.monotonic()
    summary = run(asked(path), tmp_path / "cube.zarr", workers=1, patience=3, progress=None)
    assert summary.ok
    assert time.monotonic() - began < 120
