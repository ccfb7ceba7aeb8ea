"""Who sees whom: the one definition that engine, checks, statistics and explorer share.

A slot is one token that was fed, in physical order; `slot_step` is the step whose set it belongs to
(prompt -1, no such slot -2), and the order within a set is the rank of its tokens.
"""

import numpy as np
import numpy.typing as npt

from .grid import MODES

PROMPT = -1  # slot_step of a prompt token
NO_SLOT = -2  # slot_step beyond the end of an experiment
NEVER = -1  # pruned_at of a slot that stays
ALL = slice(None)

Ints = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


def existence(slot_step: Ints, rows: slice = ALL) -> Mask:
    """(query, key): the key had been fed when the query's row was computed, whether it may be seen or not.

    A set is fed together, so its members exist for each other; a prompt row knows no later key. `rows` are
    the queries wanted.
    """
    step = np.asarray(slot_step)
    order = np.arange(step.size)
    earlier = order[None, :] <= order[rows, None]
    same_set = (step[None, :] == step[rows, None]) & (step[None, :] >= 0)
    real = step > NO_SLOT
    return np.asarray((earlier | same_set) & real[None, :] & real[rows, None])


def asked_rows(queries: str, slot_step: Ints) -> Mask:
    """(slot,): rows of attention that a capture keeps: all, generated, or last.

    `last` are the best token of each set, which is its first, and the last one of the prompt.
    """
    step = np.asarray(slot_step)
    if queries == "all":
        return step > NO_SLOT
    if queries == "generated":
        return step >= 0
    first_of_set = (step >= 0) & np.r_[True, step[1:] != step[:-1]]
    last_of_prompt = (step == PROMPT) & np.r_[step[1:] != PROMPT, True]
    return np.asarray(first_of_set | last_of_prompt)


def visibility(
    mode: str,
    logical: Ints,
    slot_step: Ints,
    pruned_at: Ints,
    window: int | None = None,
    rows: slice = ALL,
) -> Mask:
    """(query, key): True where the query may see the key.

    Earlier positions are visible in every mode. Among siblings, `isolated` sees only itself, `causal` also
    those ranked above it, `visible` all of them, both ways; a set of `single` has one member. A key pruned
    at step t is hidden from rows of step t on. `window` counts logical positions, the query's included.
    `rows` are the queries wanted: an engine needs those of its newest set only.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; there are {', '.join(MODES)}")
    step, position, gone = np.asarray(slot_step), np.asarray(logical), np.asarray(pruned_at)
    order = np.arange(step.size)
    seen = existence(step, rows)
    if mode != "visible":
        among = np.equal if mode == "isolated" else np.less_equal
        sibling = (step[None, :] == step[rows, None]) & (step[None, :] >= 0)
        seen &= ~sibling | among(order[None, :], order[rows, None])
    if (gone >= 0).any():
        seen &= ~((gone[None, :] >= 0) & (step[rows, None] >= gone[None, :]))
    if window is not None:
        seen &= position[rows, None] - position[None, :] < window
    return np.asarray(seen)
