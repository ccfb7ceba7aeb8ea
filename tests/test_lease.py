import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from cubes import PROCESSES, PROMPT_TOKENS, digests, environment, experiment, facts, fill, grid, hold, write
from tempocube.dataset import lease
from tempocube.dataset.place import Place
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.errors import LeaseError


@pytest.fixture
def held(where):
    """A cube that a driver in another process holds."""
    ready = PROCESSES.Event()
    process = PROCESSES.Process(target=hold, args=(where, grid(), ready, environment()))
    process.start()
    assert ready.wait(30)
    yield where, process
    process.kill()
    process.join()


def test_a_second_driver_is_refused_while_the_first_lives_and_gets_in_after_it_was_killed(held):
    where, process = held
    start = time.monotonic()
    for overwrite in (False, True):
        with pytest.raises(
            LeaseError, match=f"being written by another run: process {process.pid} on"
        ) as refused:
            Driver(where, grid(), facts(), PROMPT_TOKENS, overwrite=overwrite).__enter__()
        assert "\n" not in str(refused.value)
    assert time.monotonic() - start < 2
    os.kill(process.pid, signal.SIGKILL)
    start = time.monotonic()
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        assert run.lease.taken_over
    assert time.monotonic() - start < 5


def test_of_many_drivers_at_once_exactly_one_gets_in(where):
    place, got, refused = Place.at(where), [], []

    def rush():
        try:
            got.append(lease.take(place))
        except LeaseError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=rush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].release()
    lease.take(place).release()


def elsewhere(place, **other):
    """Leave a lease as a driver on another machine would have."""
    record = {
        "host": "far-away x",
        "pid": 1,
        "token": "far",
        "started": 0.0,
        "time": time.time(),
        "beats": 5,
        "released": False,
        "since": time.time(),
        "after_dead": False,
    }
    place.put(f"{lease.FOLDER}/00000003.json", json.dumps(record | other).encode())


def test_a_driver_elsewhere_counts_as_dead_after_thirty_seconds_without_heartbeat(where):
    place = Place.at(where)
    elsewhere(place, time=time.time() - 20)
    with pytest.raises(LeaseError, match="process 1 on far-away, last heartbeat 20 s ago"):
        lease.take(place)
    elsewhere(place, time=time.time() - 31)
    with lease.take(place, beat=0.05) as taken:
        assert (taken.number, taken.taken_over) == (4, True)


def test_a_heartbeat_that_moves_is_believed_whatever_the_clock_says(where):
    place = Place.at(where)
    elsewhere(place, time=time.time() - 3600)
    beating = threading.Timer(0.1, elsewhere, (place,), {"time": time.time() - 3599, "beats": 6})
    beating.start()
    with pytest.raises(LeaseError, match="being written by another run"):
        lease.take(place, beat=0.3)
    beating.join()


def test_a_process_id_that_came_back_is_another_process(where):
    place = Place.at(where)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        mine = {"host": lease._host(), "pid": other.pid}
        elsewhere(place, **mine, started=lease._started(other.pid))
        with pytest.raises(LeaseError):
            lease.take(place)
        elsewhere(place, **mine, started=lease._started(other.pid) - 100)
        lease.take(place).release()
    finally:
        other.kill()
        other.communicate()


def test_a_heartbeat_goes_on_and_a_driver_that_lost_the_cube_stops(where):
    place = Place.at(where)
    with lease.take(place, beat=0.05) as first:
        time.sleep(0.5)
        record = lease._newest(place)[1]
        assert record["beats"] > 2
        place.put(f"{lease.FOLDER}/{first.number + 1:08d}.json", lease._record("another", 0))
        with pytest.raises(LeaseError, match="another run has taken the cube over"):
            first.check()
    assert lease._newest(place)[0] == first.number + 1


def test_workers_of_a_dead_run_cannot_touch_a_done_cell(where):
    """The orphan was in the middle of a cell when its driver died and the next one finished that cell."""
    asked, model = grid(1, seeds=[1], modes=["visible"], max_tokens=60), facts()
    run = Driver(where, asked, model, PROMPT_TOKENS).__enter__()
    task = run.todo()[0]
    orphan = task.writer()
    _, logs, readout = experiment(task.cell, model)
    wrong = logs - 1
    orphan.write("log_attention", wrong[:, :, :64], 0)
    die_silently(run)
    fill(where, asked, model)
    before = digests(where)
    for attempt in (
        lambda: orphan.write("log_attention", wrong[:, :, 64:128], 64),
        lambda: orphan.write("logits", readout, 0),
        lambda: task.writer().write("logits", readout, 0),
        lambda: task.writer().fail("too late"),
    ):
        with pytest.raises(LeaseError, match="the run this work belongs to is over"):
            attempt()
    with Driver(where, asked, model, PROMPT_TOKENS) as again:
        assert again.todo() == []
    assert digests(where) == before
    assert verify(where).ok


def test_what_slips_through_between_look_and_put_is_found_and_done_again(where):
    """The worker of the dead run looked, was suspended, and put its shard after the cell was done."""
    asked, model = grid(1, seeds=[1], modes=["visible"]), facts()
    run = Driver(where, asked, model, PROMPT_TOKENS).__enter__()
    task = run.todo()[0]
    shard = write_elsewhere(task, model)
    die_silently(run)
    with Driver(where, asked, model, PROMPT_TOKENS) as second:
        assert second.lease.taken_over
        for again in second.todo():
            write(again, model)
        second.fold()
        time.sleep(1.1)  # S3 tells times in whole seconds
        second.place.put(*shard)
    with Driver(where, asked, model, PROMPT_TOKENS) as third:
        assert [again.index for again in third.todo()] == [task.index]
        write(third.todo()[0], model)
    assert verify(where).ok


def write_elsewhere(task, model):
    """A shard of the cell with other values than it should have."""
    _, logs, _ = experiment(task.cell, model)
    writer = task.writer()
    writer.write("log_attention", logs - 1, 0)
    (key,) = writer._shards
    return key, writer.cube.place.get(key)


def die_silently(run):
    """What a kill leaves of a driver: no release, no further heartbeat, a process that is gone."""
    run.lease._stop.set()
    run.lease._thread.join()
    record = lease._newest(run.place)[1]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    record |= {"pid": gone.pid, "started": 0.0}
    run.place.put(f"{lease.FOLDER}/{run.lease.number:08d}.json", json.dumps(record).encode())


def test_a_cube_made_anew_in_the_same_folder_is_another_run(tmp_path):
    """Numbers begin anew there; a task of the removed cube must not pass for one of the new."""
    where, asked = tmp_path / "a.zarr", grid(1, seeds=[1], modes=["visible"])
    with Driver(where, asked, facts(), PROMPT_TOKENS) as run:
        old = run.todo()[0]
        old.writer()
    shutil.rmtree(where)
    with Driver(where, asked, facts(), PROMPT_TOKENS) as run:
        with pytest.raises(LeaseError, match="is over"):
            write(old, facts())
        write(run.todo()[0], facts())
    assert verify(where).ok


def test_a_worker_writes_only_while_it_saw_a_heartbeat(where):
    place = Place.at(where)
    with lease.take(place, beat=0.1) as held:
        permit = lease.Permit(place, held.token, sight=0.5)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            permit.check()
            time.sleep(0.05)
        held._stop.set()
        held._thread.join()
        permit.check()
        time.sleep(0.6)
        with pytest.raises(LeaseError, match="no heartbeat"):
            permit.check()
        held._stop.clear()


def test_a_worker_that_comes_late_writes_nothing_for_a_run_that_is_dead(where, monkeypatch):
    """Its first look finds a lease that nobody took over, and no heartbeat."""
    monkeypatch.setattr(lease, "BEAT", 0.1)
    place = Place.at(where)
    elsewhere(place, time=time.time() - 12, token="dead")
    with pytest.raises(LeaseError, match="no heartbeat"):
        lease.Permit(place, "dead").check()
    beating = threading.Timer(
        0.1, elsewhere, (place,), {"time": time.time() - 11, "beats": 6, "token": "dead"}
    )
    beating.start()
    lease.Permit(place, "dead").check()
    beating.join()


def test_a_dead_driver_whose_clock_ran_ahead_does_not_hold_the_cube_until_then(where):
    place = Place.at(where)
    elsewhere(place, time=time.time() + 3600)
    lease.take(place, beat=0.05).release()
