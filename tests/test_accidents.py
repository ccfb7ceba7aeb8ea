"""The command itself, killed, interrupted, doubled and starved: it says so in one line, and goes on later."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

import tempocube as tc
from tempocube.dataset.cube import Cube
from tempocube.dataset.schema import DONE
from tempocube.dataset.verify import verify
from tempocube.dataset.writing import receipts
from tiny import checkpoint

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
SEEDS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A grid file whose run takes some seconds, and a cube that an undisturbed run made of it."""
    there = tmp_path_factory.mktemp("accidents")
    model = checkpoint(there / "llama", "llama")
    text = f"""
model: {model}
prompts: {{a: [the cat sat on the mat, lal]}}
seeds: {list(range(SEEDS))}
modes: [isolated, visible]
temperature: 0.7
threshold: 0.08
max_tokens: 4
storage: {{attention: float32, logits: float32}}
"""
    (there / "grid.yaml").write_text(text)
    assert capture(there, "calm.zarr", "--workers", "2")[0] == 0
    return there


def words(folder, cube, *more):
    return [BIN / "tempo-capture", folder / "grid.yaml", "-o", folder / cube, *map(str, more)]


def capture(folder, cube, *more):
    """Run it to its end: exit code, what it says, what it complains of."""
    done = subprocess.run(words(folder, cube, *more), capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def capturing(folder, cube, *more):
    """A run under way, in a process group of its own, some cells into it."""
    run = subprocess.Popen(
        words(folder, cube, "--batch-size", "1", *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 100
        while done(folder / cube) < 5:
            assert run.poll() is None, run.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.05)
        yield run
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def done(cube):
    """Cells that are finished, folded or not."""
    if not (cube / "zarr.json").exists():
        return 0
    opened = Cube.open(cube)
    return int((opened.status() == DONE).sum()) + len(receipts(opened.place))


def children(run):
    return psutil.Process(run.pid).children(recursive=True)


def all_gone(processes, seconds=30):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def same_as_calm(folder, cube):
    assert verify(folder / cube).ok
    one, other = tc.open_cube(folder / cube), tc.open_cube(folder / "calm.zarr")
    np.testing.assert_array_equal(one.path_digest, other.path_digest)
    np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)


def test_a_killed_driver_leaves_no_process_and_the_same_command_goes_on(folder):
    with capturing(folder, "killed.zarr", "--workers", 2) as run:
        workers = children(run)
        run.kill()
        assert all_gone(workers)
    had = done(folder / "killed.zarr")
    assert 5 <= had < 4 * SEEDS
    code, out, err = capture(folder, "killed.zarr", "--workers", 1)
    assert (code, f"{had} done before" in out) == (0, True), (out, err)
    same_as_calm(folder, "killed.zarr")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_one_line_and_leaves_no_process(folder, sign):
    cube = f"stopped{sign}.zarr"
    with capturing(folder, cube, "--workers", 2, "--quiet") as run:
        workers = children(run)
        os.killpg(run.pid, sign) if sign == signal.SIGINT else run.send_signal(sign)
        out, err = run.communicate(timeout=60)
        assert all_gone(workers)
    assert run.returncode == 1
    there = int((Cube.open(folder / cube).status() == DONE).sum())
    assert err == (
        f"tempo-capture: stopped; {there} of {4 * SEEDS} cells are in {folder / cube}; "
        "the same command goes on\n"
    )
    assert out == ""
    assert 5 <= there < 4 * SEEDS
    assert capture(folder, cube, "--workers", 2)[0] == 0
    same_as_calm(folder, cube)


def test_ctrl_c_while_workers_come_up_is_one_line_too_and_a_quiet_run_says_nothing(folder):
    run = subprocess.Popen(
        words(folder, "early.zarr", "--workers", "2", "--quiet"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not any("spawn_main" in " ".join(child.cmdline()) for child in children(run)):
        assert time.monotonic() < until
    os.killpg(run.pid, signal.SIGINT)
    err = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert (err.startswith("tempo-capture: stopped"), err.count("\n")) == (True, 1), err
    assert capture(folder, "early.zarr", "--workers", "2", "--quiet") == (0, "", "")
    same_as_calm(folder, "early.zarr")


def test_a_second_run_on_a_cube_is_refused_and_the_first_goes_on(folder):
    with capturing(folder, "twice.zarr", "--workers", 1) as run:
        code, out, err = capture(folder, "twice.zarr")
        assert (code, out) == (2, "")
        assert f"is being written by another run: process {run.pid} on " in err
        assert err.count("\n") == 1
        assert run.wait(120) == 0
    same_as_calm(folder, "twice.zarr")


def test_a_full_disk_ends_the_run_and_it_goes_on_after_space_is_made(folder):
    mount = folder / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", mount], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        code, _, err = capture(folder, "small/full.zarr", "--workers", 2, "--quiet")
        assert code == 1
        assert "no space left; make room and run the same command again" in err
        assert (err.count("\n"), "Traceback" in err) == (1, False)
        subprocess.run(["mount", "-o", "remount,size=100m", mount], check=True)
        assert 0 < done(mount / "full.zarr") < 4 * SEEDS
        assert capture(folder, "small/full.zarr", "--workers", 2)[0] == 0
        same_as_calm(folder, "small/full.zarr")
    finally:
        subprocess.run(["umount", mount], check=True)


@contextmanager
def by_hand(workers):
    """A scheduler and workers as somebody would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    scheduler = [BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [BIN / "dask", "worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "30"]
    started = [subprocess.Popen(scheduler, **quiet)]
    started += [subprocess.Popen(worker, **quiet) for _ in range(workers)]
    try:
        yield address, started
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_run_on_workers_started_by_hand_outlives_neither_scheduler_nor_sense(folder):
    with by_hand(3) as (address, (scheduler, *_)):
        with capturing(folder, "hand.zarr", "--scheduler", address, "--quiet") as run:
            scheduler.kill()
            out, err = run.communicate(timeout=60)
        assert (run.returncode, out) == (1, "")
        assert err.startswith("tempo-capture: the scheduler went away")
        assert (err.count("\n"), "Traceback" in err) == (1, False)
    had = done(folder / "hand.zarr")
    assert 5 <= had < 4 * SEEDS
    with by_hand(3) as (address, _):
        assert capture(folder, "hand.zarr", "--scheduler", address)[0] == 0
    same_as_calm(folder, "hand.zarr")


def test_a_scheduler_that_is_not_there_is_named(folder):
    code, out, err = capture(folder, "nobody.zarr", "--quiet", "--scheduler", "tcp://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert err.startswith("tempo-capture: --scheduler: no scheduler answers at tcp://127.0.0.1:9")
    assert err.count("\n") == 1
