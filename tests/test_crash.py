"""Kill -9, at any moment, of any process: what is done verifies, what is not can be done again."""

import random
import time

import numpy as np
import pytest

from cubes import (
    PROCESSES,
    PROMPT_TOKENS,
    digests,
    drive,
    environment,
    facts,
    fill,
    grid,
    write,
    write_for_ever,
)
from tempocube.dataset.cube import Cube
from tempocube.dataset.schema import DONE, PENDING
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify

WORKERS, KILLS = 8, 20


def test_eight_writers_killed_twenty_times_lose_nothing(where, tmp_path):
    """The driver folds while workers die in the middle of cells; the end is that of a run without kills."""
    model, asked = facts(layers=4, heads=8), grid(10, seeds=[1, 2, 3, 4], max_tokens=60)
    undisturbed = digests(fill(tmp_path / "undisturbed.zarr", asked, model).place)
    rng = random.Random(5)
    kills = 0
    with Driver(where, asked, model, PROMPT_TOKENS) as run:
        every = run.todo()
        while kills < KILLS:
            rng.shuffle(every)
            # no two write the same cell; they go round and round, so that death always finds them at work
            workers = [start(write_for_ever, every[i::WORKERS], model, environment()) for i in range(WORKERS)]
            for victim in workers:
                time.sleep(rng.uniform(0, 0.1))
                kills += victim.is_alive()
                victim.kill()
                victim.join()
                run.fold()
        assert verify(where).problems == []
        for task in run.todo():
            write(task, model)
    assert verify(where).ok
    assert digests(where) == undisturbed


def start(target, *arguments):
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def test_a_driver_killed_after_any_change_leaves_a_cube_that_the_same_command_finishes(tmp_path):
    """Every point between creation, shard, receipt and fold, each on a cube of its own."""
    where, asked = tmp_path / "undisturbed.zarr", grid(1, seeds=[1])
    expected = digests(fill(where, asked).place)
    calls = deaths = 0
    while True:
        where = str(tmp_path / f"{calls}.zarr")
        process = start(drive, where, asked, {}, calls)
        process.join(60)
        if process.exitcode == 0:
            break
        deaths += 1
        if (tmp_path / f"{calls}.zarr" / "zarr.json").exists():
            assert verify(where).problems == []
        fill(where, asked)
        assert verify(where).ok
        assert digests(where) == expected
        calls += 3
    assert deaths > 20


def test_an_extension_killed_after_any_change_leaves_the_old_cube_or_the_new(where, tmp_path):
    """Old cells keep their bytes, the cube opens after each kill, and the same command finishes."""
    first, more = grid(1, seeds=[1], threshold=[0.2]), grid(2, seeds=[1, 2], threshold=[0.2, 0.05])
    fill(where, first)
    old = digests(where)
    step = 1 if not where.startswith("s3") else 9
    calls = deaths = 0
    while True:
        process = start(drive, where, more, environment(), calls)
        process.join(120)
        verdict = verify(where)
        assert verdict.problems == []
        assert old.items() <= digests(where).items()
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        if Cube.open(where).grids == (first, more):
            break
        assert sum(verdict.counts.values()) == 2
        deaths, calls = deaths + 1, calls + step
    assert deaths * step > 30
    fill(where, more)
    assert digests(where) == digests(fill(tmp_path / "once.zarr", first).place) | digests(
        grown(tmp_path, first, more)
    )
    assert verify(where).ok


def grown(tmp_path, first, more):
    """The same extension without any kill."""
    fill(tmp_path / "grown.zarr", first)
    return fill(tmp_path / "grown.zarr", more).place


def test_after_an_extension_that_died_another_one_is_not_confused_by_it(where):
    first, died, other = grid(1, seeds=[1]), grid(3, seeds=[1, 2, 3]), grid(2, seeds=[1, 9])
    fill(where, first)
    process = start(drive, where, died, environment(), 45)
    process.join(60)
    assert process.exitcode == -9
    assert Cube.open(where).grids == (first,)
    with Driver(where, first, facts(), PROMPT_TOKENS) as run:
        assert run.todo() == []
    fill(where, other)
    assert verify(where).counts | {"done": 8} == verify(where).counts
    assert Cube.open(where).labels.seed == (1, 9)
    assert verify(where).ok


def test_an_overwrite_killed_after_any_change_leaves_the_old_cube_or_the_new(tmp_path):
    where = str(tmp_path / "cube.zarr")
    old, new = grid(2, seeds=[1]), grid(1, threshold=0.3)
    fill(where, old)
    before = digests(where)
    calls = deaths = 0
    while True:
        process = start(drive, where, new, {}, calls, True)
        process.join(60)
        cube = Cube.open(where)
        if cube.grids == (new,):
            break
        assert process.exitcode == -9
        assert cube.grids == (old,)
        assert digests(where) == before
        assert verify(where).ok
        deaths, calls = deaths + 1, calls + 1
    assert deaths > 30
    fill(where, new, overwrite=True)
    assert verify(where).ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr"]


def test_an_overwrite_killed_between_its_two_renames_is_finished_by_the_next_open(tmp_path):
    where, new = tmp_path / "cube.zarr", grid(1, threshold=0.3)
    fill(where, grid())
    fill(tmp_path / ".cube.zarr.tempocube-new", new)
    where.rename(tmp_path / ".cube.zarr.tempocube-old")
    assert Cube.open(where).grids == (new,)
    assert verify(where).ok
    fill(where, new)
    assert [p.name for p in tmp_path.iterdir()] == ["cube.zarr"]


def test_an_overwrite_on_s3_that_died_is_refused_by_name_until_it_is_finished(s3):
    where = "s3://tests/half/cube.zarr"
    fill(where, grid(2, seeds=[1]))
    new = grid(1, threshold=0.3)
    process = start(drive, where, new, environment(), 20, True)
    process.join(60)
    assert process.exitcode == -9
    with pytest.raises(Exception, match="is being replaced; overwrite it again with the same grid"):
        Cube.open(where)
    fill(where, new, overwrite=True)
    assert Cube.open(where).grids == (new,)
    assert verify(where).ok
    assert np.unique(Cube.open(where).status()).tolist() == [DONE]


def test_a_shard_that_a_crash_tore_is_simply_written_again(where):
    asked, model = grid(1, seeds=[1], modes=["visible"]), facts()
    expected = digests(fill(where, asked, model).place)
    with Driver(where, asked, model, PROMPT_TOKENS) as run:
        run.ledger.mark([(0, 0, 0)], PENDING)
        for stored in [
            s for name in ("log_attention", "logits") for s in run.place.list(name) if "/c." in s.key
        ]:
            run.place.put(stored.key, run.place.get(stored.key)[:-9])
        write(run.todo()[0], model)
    assert verify(where).ok
    assert digests(where) == expected
