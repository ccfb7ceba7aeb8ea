"""Batches: every task once, what belongs together together, nothing over the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempocube.capture.plan import MOST_CELLS, batches
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
    limit = most if most is not None else max(together, -(-len(asked) // workers))
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


def test_every_worker_gets_something_and_no_batch_is_endless():
    assert len(batches(tasks(10, 5), by_length, room=10**9, workers=3)) >= 3
    assert max(map(len, batches(tasks(50, 10), by_length, room=10**9))) <= MOST_CELLS


def test_a_cell_too_large_for_a_worker_is_refused_with_the_sums():
    with pytest.raises(
        BadInput, match=r"'prompt 0' \(isolated\) alone needs 10 MB of a worker's 5 MB; lower"
    ):
        batches(tasks(1, 1), lambda batch: 10**7 * len(batch), room=5 * 10**6)


def test_no_tasks_are_no_batches():
    assert batches([], by_length, room=1) == []
