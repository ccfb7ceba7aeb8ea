"""Which tokens later tokens hardly attend to, and are therefore hidden: retroactive pruning.

When the rows of a set are computed, each earlier set that still has a choice is judged by them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dataset.options import Prune
from ..dataset.visibility import NEVER

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Judgement:
    """score (slots,): attention received, NaN where not judged; hidden (tokens,): slots that go."""

    score: Floats
    hidden: npt.NDArray[np.intp]


TIE = 1e-5  # of a score: float32 attention means no more than that


def layer_weights(prune: Prune, layers: int) -> Floats:
    """(layers,) the weight of each layer in a score; 0 for those that do not count, 1 in all."""
    chosen = list(range(layers) if prune.layers == "all" else prune.layers)
    rising = prune.weighting == "rising"
    ranks = np.arange(1.0, len(chosen) + 1) if rising else np.ones(len(chosen))
    weights = np.zeros(layers)
    weights[chosen] = ranks / ranks.sum()
    return weights


def received(prune: Prune, by_layer: npt.NDArray[np.floating]) -> Floats:
    """(keys,) attention that keys receive from a set's rows; by_layer (layers, rows, keys) is a head mean."""
    weights = layer_weights(prune, len(by_layer))
    return np.asarray(weights @ by_layer.mean(axis=1, dtype=np.float64))


def judge(prune: Prune, received: Floats, slot_step: Ints, pruned_at: Ints, step: int) -> Judgement:
    """Judge the sets before `step` by what its rows gave them: received, slot_step, pruned_at (slots,).

    Only sets with several survivors are judged, and the best of each stays. The hidden ones go from
    step + 1 on; a score that is not NaN replaces the token's earlier one.
    """
    score = np.full(received.size, np.nan)
    slots = _undecided(slot_step, pruned_at, step)
    if not slots.size:
        return Judgement(score, slots)
    score[slots] = received[slots]
    sets, starts, sizes = np.unique(slot_step[slots], return_index=True, return_counts=True)
    own = np.repeat(np.arange(sets.size), sizes)
    highest = np.maximum.reduceat(score[slots], starts)
    # Scores that differ in rounding only are equal, and of equal scores the best-ranked stays.
    best = np.lexsort((score[slots] < (1 - TIE) * highest[own], own))[starts]
    bar = prune.threshold * score[slots[best]] if prune.relative else np.full(sets.size, prune.threshold)
    goes = score[slots] < bar[own]
    goes[best] = False
    return Judgement(score, slots[goes])


def _undecided(slot_step: Ints, pruned_at: Ints, step: int) -> npt.NDArray[np.intp]:
    """Surviving slots of the sets before `step` that still have several, in slot order."""
    alive = np.flatnonzero((slot_step >= 0) & (slot_step < step) & (pruned_at == NEVER))
    if not alive.size:
        return alive
    of = slot_step[alive]
    return np.asarray(alive[np.bincount(of)[of] > 1])
