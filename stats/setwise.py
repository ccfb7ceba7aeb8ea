"""What is seen set by set in one experiment: placebo labels, mode `single` beside it, how siblings differ.

As in `estimand`, y is (query, key): log attention averaged over layers and heads.
"""

import numpy as np

from .estimand import NAN, SAME, Floats, Layout, context, inner, terms, with_both


def placebo(y: Floats, where: Layout, draws: int = 1000, seed: int = 0) -> Floats:
    """(draw,): delta if other sets, drawn at random, were called the parallel ones; NaN where undefined."""
    count, total = _between_sets(y, where)
    first = _first(where)
    far = where.distance[np.ix_(first, first)]
    rng = np.random.default_rng(seed)
    labels = np.broadcast_to(where.width >= 2, (draws, first.size))
    called = rng.permuted(labels, axis=1).T.astype(np.float64)
    n, sums = count.sum(axis=1), (count * far).sum(axis=1)
    use = n > 0
    n, sums, count, total, far = n[use, None], sums[use, None], count[use], total[use], far[use]
    wide = count @ called
    both = (wide > 0) & (wide < n - SAME)
    every = total.sum(axis=1, keepdims=True)
    pp = ((wide - wide**2 / n) * both).sum(axis=0)
    dp = (((count * far) @ called - wide * sums / n) * both).sum(axis=0)
    py = ((total @ called - wide * every / n) * both).sum(axis=0)
    dd = (((count * far**2).sum(axis=1, keepdims=True) - sums**2 / n) * both).sum(axis=0)
    dy = (((total * far).sum(axis=1, keepdims=True) - sums * every / n) * both).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = pp - dp**2 / dd
        return np.where(rest > SAME * pp, (py - dp / dd * dy) / rest, np.nan)


def beside_single(y: Floats, where: Layout, single: Floats, alone: Layout) -> float:
    """Log of what a parallel key gets over the one key there in mode `single`; NaN where undefined.

    y and single, both (query, key), are laid out by `where` and `alone`. A key stands at the same position
    in both, so there is no distance; a row, one a set, still has its own level.
    """
    n = min(where.width.size, alone.width.size)
    gap = _means(y, where)[:n, :n] - _means(single, alone)[:n, :n]
    wide = where.width[:n] >= 2
    keys = with_both(np.isfinite(gap), wide)
    of = terms(keys, np.zeros((n, n)), wide, np.ones(n))
    among = inner(of, of.parallel, of.parallel)
    return inner(of, of.parallel, np.where(keys, gap, 0.0)) / among if among else NAN


def sibling_spread(y: Floats, where: Layout) -> float:
    """How far apart tokens of one set are: mean |log a_i - log a_j| over later queries, sets and pairs."""
    keys = context(where) & np.isfinite(y)
    step = where.slot_step
    one, other = np.nonzero(np.triu((step[:, None] == step[None, :]) & where.generated, 1))
    both = keys[:, one] & keys[:, other]
    if not both.any():
        return NAN
    width = where.width[step[one]]
    share = np.where(both, where.weight[:, None] / (width * (width - 1)), 0.0)
    gaps = np.abs(np.where(both, y[:, one], 0.0) - np.where(both, y[:, other], 0.0))
    return float((share * gaps).sum() / share.sum())


def _means(y: Floats, where: Layout) -> Floats:
    """(set, set): the mean of y; NaN where a set does not see another."""
    count, total = _between_sets(y, where)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count)


def _between_sets(y: Floats, where: Layout) -> tuple[Floats, Floats]:
    """(set, set): over rows of a set and visible keys of an earlier one, their number and the sum of y.

    Rows of a set see the same context: each counts 1 / width, so that a set is one row.
    """
    first = _first(where)
    keys = context(where) & np.isfinite(y)
    rows = where.weight[:, None] * keys
    count, total = (
        np.add.reduceat(np.add.reduceat(each, first, axis=1), first, axis=0)
        for each in (rows, rows * np.where(keys, y, 0.0))
    )
    return count, total


def _first(where: Layout) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """(set,): its first slot."""
    return np.searchsorted(where.slot_step, np.arange(where.width.size))
