import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempocube.dataset.grid import MODES
from tempocube.dataset.visibility import asked_rows, existence, visibility


@st.composite
def histories(draw):
    """Prompt, sets of any width, prunings after the set was fed, and an empty tail."""
    prompt, widths = draw(st.integers(1, 6)), draw(st.lists(st.integers(1, 4), max_size=6))
    steps = np.repeat(np.arange(len(widths)), widths)
    tail = draw(st.integers(0, 3))
    slot_step = np.concatenate([np.full(prompt, -1), steps, np.full(tail, -2)])
    logical = np.concatenate([np.arange(prompt), prompt + steps, np.full(tail, -1)])
    pruned = [
        draw(st.sampled_from([-1, *range(s + 1, len(widths) + 1)])) if s >= 0 else -1 for s in slot_step
    ]
    return logical, slot_step, np.array(pruned)


def by_definition(mode, logical, slot_step, pruned_at, window, q, k):
    """The definition in words, one pair at a time."""
    if -2 in (slot_step[q], slot_step[k]):
        return False
    if slot_step[q] == -1:
        seen = k <= q
    elif slot_step[k] < slot_step[q]:
        seen = pruned_at[k] == -1 or slot_step[q] < pruned_at[k]
    elif slot_step[k] == slot_step[q]:
        seen = k == q or mode == "visible" or (mode in ("causal", "single") and k < q)
    else:
        seen = False
    return seen and (window is None or logical[q] - logical[k] < window)


@given(histories(), st.sampled_from(MODES), st.none() | st.integers(1, 6))
def test_the_mask_is_the_definition_pair_by_pair(history, mode, window):
    mask = visibility(mode, *history, window)
    size = len(history[1])
    expected = [[by_definition(mode, *history, window, q, k) for k in range(size)] for q in range(size)]
    assert mask.tolist() == expected


@given(histories(), st.sampled_from(MODES))
def test_what_is_seen_exists_and_every_token_sees_itself(history, mode):
    mask, there = visibility(mode, *history), existence(history[1])
    assert not (mask & ~there).any()
    real = history[1] > -2
    assert (mask.diagonal() == real).all()


@given(histories())
def test_modes_differ_in_sibling_pairs_and_nowhere_else(history):
    slot_step = history[1]
    siblings = (slot_step[:, None] == slot_step[None, :]) & (slot_step[:, None] >= 0)
    isolated, causal, visible = (visibility(mode, *history) for mode in ("isolated", "causal", "visible"))
    others = siblings & ~np.eye(len(slot_step), dtype=bool)
    assert not (isolated & others).any()
    assert (visible | ~others).all()
    assert (causal & others).sum() * 2 == others.sum()
    assert (isolated == visible)[~others].all()
    assert (isolated <= causal).all()
    assert (causal <= visible).all()


@given(histories(), st.sampled_from(MODES))
def test_a_pruned_key_stays_in_rows_computed_before(history, mode):
    logical, slot_step, pruned_at = history
    kept, all_of_it = (
        visibility(mode, *history),
        visibility(mode, logical, slot_step, np.full_like(pruned_at, -1)),
    )
    gone = (pruned_at[None, :] >= 0) & (slot_step[:, None] >= pruned_at[None, :])
    assert (kept == (all_of_it & ~gone)).all()


@given(histories(), st.sampled_from(MODES), st.none() | st.integers(1, 6), st.data())
def test_some_rows_are_those_of_the_whole_mask(history, mode, window, data):
    size = len(history[1])
    start, stop = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
    rows = slice(start, stop)
    part, whole = visibility(mode, *history, window, rows=rows), visibility(mode, *history, window)
    assert part.shape == (stop - start, size)
    assert (part == whole[rows]).all()
    assert (existence(history[1], rows=rows) == existence(history[1])[rows]).all()


def test_a_row_is_final_however_long_the_experiment_gets():
    slot_step = np.array([-1, -1, 0, 0, 1, 2, 2])
    logical = np.array([0, 1, 2, 2, 3, 4, 4])
    never = np.full(7, -1)
    whole = visibility("visible", logical, slot_step, never)
    for end in (2, 4, 5):  # after the prompt and after each set
        part = visibility("visible", logical[:end], slot_step[:end], never[:end])
        assert (part == whole[:end, :end]).all()
        assert not existence(slot_step)[:end, end:].any()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="isolated, causal, visible, single"):
        visibility("visable", np.zeros(1), np.zeros(1), np.zeros(1))


def test_rows_that_a_capture_keeps():
    slot_step = np.array([-1, -1, 0, 0, 1, 2, 2, -2])
    kept = {
        queries: np.flatnonzero(asked_rows(queries, slot_step)).tolist()
        for queries in ("all", "generated", "last")
    }
    assert kept == {"all": [0, 1, 2, 3, 4, 5, 6], "generated": [2, 3, 4, 5, 6], "last": [1, 2, 4, 5]}
    assert np.flatnonzero(asked_rows("last", np.array([-1, -1]))).tolist() == [1]
