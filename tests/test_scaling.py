"""A grid on a scheduler and workers started by hand, the cube on a server: the content of a local run."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import tempocube as tc
from runs import grid
from tempocube.capture.run import run
from tempocube.dataset.verify import verify
from tiny import checkpoint

pytestmark = pytest.mark.slow  # every worker is a process that loads a model

DASK = Path(sys.executable).parent / "dask"
STARTS_WITHIN = 60  # seconds


class ByHand:
    """A scheduler, and workers that come when they are called."""

    def __init__(self, stack):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._stack, self.address = stack, f"tcp://127.0.0.1:{port}"
        self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))

    def worker(self, threads=1):
        return self._start(
            "worker", self.address, "--nthreads", str(threads), "--memory-limit", "0", "--death-timeout", "60"
        )

    def wait_for(self, workers):
        with Client(self.address, timeout=STARTS_WITHIN) as client:
            client.wait_for_workers(workers, timeout=STARTS_WITHIN)

    def _start(self, *words):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([DASK, *words, "--no-dashboard"], start_new_session=True, **quiet)
        self._stack.callback(ended, process)
        return process


def ended(process):
    """Kill a process and its nanny's worker; a session has one group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def by_hand():
    with ExitStack() as stack:
        yield ByHand(stack)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.fixture(scope="module")
def wanted(path):
    return grid(model=path, max_tokens=3, temperature=0.7)


@pytest.fixture(scope="module")
def here(tmp_path_factory, wanted):
    """What a run on this machine alone makes of the grid."""
    where = tmp_path_factory.mktemp("here") / "cube.zarr"
    assert run(wanted, where, workers=1, progress=None).ok
    return tc.open_cube(where).load()


@pytest.fixture(scope="module")
def three(s3):
    """Three workers that were told where the server is, as they were started."""
    with by_hand() as there:
        for _ in range(3):
            there.worker()
        there.wait_for(3)
        yield there.address


def same_content(where, here):
    assert verify(where).ok
    cube = tc.open_cube(where)
    np.testing.assert_array_equal(cube.path_digest, here.path_digest)
    np.testing.assert_allclose(cube.attention, here.attention, atol=1e-5)


def cells_by_worker(summary):
    return [row["cells"] for row in summary.workers]


def test_three_workers_by_hand_and_a_cube_on_s3_give_what_one_machine_gives(three, wanted, here):
    where = f"s3://tests/{uuid.uuid4().hex}/cube.zarr"
    summary = run(wanted, where, scheduler=three, batch_size=1, progress=None)
    assert (summary.done, summary.left, summary.ok) == (len(wanted.cells()), 0, True)
    assert len(summary.workers) == 3
    assert min(cells_by_worker(summary)) > 0
    same_content(where, here)


def test_two_runs_at_once_on_a_worker_of_two_threads_use_the_model_in_turn(tmp_path, wanted, here):
    """Dask gives such a worker both batches at once, on threads of which one at most has the model."""
    cubes = [tmp_path / "one.zarr", tmp_path / "other.zarr"]
    with by_hand() as there, ThreadPoolExecutor(2) as pool:
        there.worker(threads=2)
        there.wait_for(1)

        def captured(where):
            return run(wanted, where, scheduler=there.address, batch_size=1, progress=None)

        summaries = list(pool.map(captured, cubes))
    assert sum(row["loads"] for summary in summaries for row in summary.workers) == 1
    for where, summary in zip(cubes, summaries, strict=True):
        assert summary.ok
        assert len(summary.workers) == 1
        same_content(where, here)


def test_a_grid_waits_for_its_first_worker_and_those_that_join_later_take_part(tmp_path, wanted, here):
    seen = []
    with by_hand() as there:

        def watch(state):
            if state.stage == "waiting" and "waiting" not in seen:
                assert "no worker has joined" in state.news
                seen.append("waiting")
                there.worker()
            if state.stage == "running" and "running" not in seen:
                assert state.done == 0
                seen.append("running")
                there.worker()
                there.wait_for(2)

        summary = run(wanted, tmp_path / "cube.zarr", scheduler=there.address, batch_size=1, progress=watch)
    assert seen == ["waiting", "running"]
    assert summary.ok
    assert len(summary.workers) == 2
    assert min(cells_by_worker(summary)) > 0
    same_content(tmp_path / "cube.zarr", here)
