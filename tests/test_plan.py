"""Batches: every task once, what belongs together together, nothing over the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempocube.capture.plan import MOST_CELLS, PROCESS, SHARE, batches, halves, planned
from tempocube.dataset.grid import Grid
from tempocube.dataset.store import Task
from tempocube.errors import BadInput


def tasks(prompts=3, seeds=2, **options):
    texts = {"a": [f"prompt {i}" for i in range(prompts)]}
    grid = Grid.from_dict({"prompts": texts, "seeds": list(range(seeds))} | options)
    return [Task("cube", "lease", (i,), cell, 1) for i, cell in enumerate(grid.cells())]


def by_length(batch):
    """Ten bytes a cell."""
    return 10 * len(batch)


@given(
    prompts=st.integers(1, 6),
    seeds=st.integers(1, 4),
    replay=st.sampled_from([None, "isolated"]),
    most=st.one_of(st.none(), st.integers(1, 30)),
    workers=st.integers(1, 5),
    room=st.integers(10, 400),
)
def test_every_task_is_in_one_batch_that_fits(prompts, seeds, replay, most, workers, room):
    asked = tasks(prompts, seeds, replay=replay)
    made = batches(asked, by_length, room=room, workers=workers, most=most)
    assert sorted(task.index for batch in made for task in batch) == [task.index for task in asked]
    assert all(batch and by_length(batch) <= room for batch in made)
    together = 2 if replay else 1  # a leader and its follower are not torn apart without need
    limit = most if most is not None else 1.5 * max(together, -(-len(asked) // workers))
    assert all(len(batch) <= max(limit, 1) for batch in made)


@given(seeds=st.integers(1, 5), workers=st.integers(1, 4))
def test_followers_travel_with_their_leader_or_come_after_it(seeds, workers):
    asked = tasks(2, seeds, replay="isolated", modes=["visible", "causal", "isolated"])
    for most in (None, 1, 3):
        made = batches(asked, by_length, room=10**6, workers=workers, most=most)
        place = {task.cell: number for number, batch in enumerate(made) for task in batch}
        followers = [cell for cell in place if cell.leader]
        assert len(followers) == 4 * seeds
        for cell in followers:
            assert place[cell.leader] <= place[cell]
            assert most == 1 or place[cell.leader] == place[cell]


def test_cells_that_share_a_prompt_stand_side_by_side():
    made = batches(tasks(4, 3), by_length, room=10**6, most=6)
    assert [len({task.cell.prompt for task in batch}) for batch in made] == [1, 1, 1, 1]


@given(prompts=st.integers(1, 12), seeds=st.integers(1, 6), workers=st.integers(1, 4))
def test_a_prompt_is_torn_apart_only_where_it_is_much(prompts, seeds, workers):
    asked = tasks(prompts, seeds)
    made = batches(asked, by_length, room=10**9, workers=workers)
    homes = {}
    for number, batch in enumerate(made):
        for task in batch:
            homes.setdefault(task.cell.prompt, set()).add(number)
    share = len(asked) / workers / -(-len(asked) // workers // MOST_CELLS or 1)
    if 2 * seeds <= share / 2:
        assert all(len(each) == 1 for each in homes.values())


def test_the_hundred_cells_of_the_seeds_go_evenly_and_prompt_by_prompt():
    made = batches(tasks(10, 5), by_length, room=10**9, workers=2)
    assert sorted(map(len, made)) == [20, 20, 30, 30]
    assert sum(len({task.cell.prompt for task in batch}) for batch in made) == 10


def test_every_worker_gets_something_and_no_batch_is_endless():
    assert len(batches(tasks(10, 5), by_length, room=10**9, workers=3)) >= 3
    assert max(map(len, batches(tasks(50, 10), by_length, room=10**9))) <= 1.5 * MOST_CELLS


GB = 10**9
PLENTY = {"weights": GB, "free": 100 * GB, "slots": 4}


def test_workers_are_as_many_as_can_work_at_once_and_fit():
    asked = tasks(4, 5)
    assert planned(asked, by_length, **PLENTY).workers == 4
    assert planned(asked, by_length, **PLENTY | {"slots": 100}).workers == len(asked)
    tight = planned(asked, by_length, **PLENTY | {"free": 4 * GB})
    assert (tight.workers, tight.each <= int(SHARE * tight.free / tight.workers)) == (2, True)
    assert planned(asked, by_length, **PLENTY | {"workers": 7}).workers == 7


def test_a_plan_stays_within_its_share_of_the_free_memory():
    def heavy(batch):
        return GB * len(batch)

    made = planned(tasks(4, 5), heavy, **PLENTY | {"free": 20 * GB, "workers": 2})
    assert made.room == int(SHARE * 20 * GB / 2) - PROCESS - GB
    assert max(map(heavy, made.batches)) == made.largest <= made.room
    assert sum(map(len, made.batches)) == 40
    assert 2 * made.each <= SHARE * 20 * GB


@pytest.mark.parametrize(
    ("workers", "free", "told"),
    [
        (
            3,
            7 * GB,
            r"3 workers x 2.45 GB .*model 1.00 GB, largest cell 1.00 GB\) = 7.35 GB, and 5.60 GB of "
            r"7.00 GB free memory may be used; use --workers 2",
        ),
        ("auto", GB, r"1 worker x 2.45 GB .*; lower max_tokens or max_width, set max_slots, or capture"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_sums(workers, free, told):
    with pytest.raises(BadInput, match=told):
        planned(tasks(4, 5), lambda batch: GB * len(batch), **PLENTY | {"free": free, "workers": workers})


@given(seeds=st.integers(1, 5), replay=st.sampled_from([None, "isolated"]))
def test_halves_are_the_whole_and_the_first_needs_nothing_of_the_second(seeds, replay):
    asked = tasks(1, seeds, replay=replay, modes=["visible", "isolated"])
    first, second = halves(asked)
    assert sorted(task.index for task in (*first, *second)) == [task.index for task in asked]
    assert 0 <= len(first) - len(second) <= 1
    assert not {task.cell.leader for task in first} & {task.cell for task in second}


def test_no_tasks_are_no_batches():
    assert batches([], by_length, room=1) == []
