"""Tests by exchangeability alone: labels permuted, signs flipped; exact where all can be counted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from .closed import LEVEL

__all__ = [
    "Cluster",
    "Resampled",
    "bootstrap_t",
    "category_labels",
    "depth_clusters",
    "labelings",
    "max_t",
    "seed_labels",
    "sign_flip",
    "signs",
]

Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]

EXACT = 20_000  # arrangements up to which all are counted
DRAWS = 9_999
TIE = 1e-9  # two sums that differ by less, relatively, are the same number


@dataclass(frozen=True, slots=True)
class Resampled:
    """p, and of how many arrangements; exact: those are all there are."""

    p: float
    arrangements: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """Neighbouring layers from first to last that lean the same way, their summed t, and its p."""

    first: int
    last: int
    mass: float
    p: float


def category_labels(x: Array, codes: Codes, seed: int = 0, draws: int = DRAWS) -> Resampled:
    """Whether categories differ: their labels permuted over prompts; x and codes (prompts,)."""
    sizes = np.bincount(codes)
    exact = _arrangements(sizes) <= EXACT
    if exact:
        labels = labelings(codes)
    else:
        random = np.random.default_rng([seed, 1])
        labels = random.permuted(np.broadcast_to(codes, (draws, len(codes))), axis=1)
    found = _between(x, labels, sizes)
    return _counted(found, float(_between(x, codes[None], sizes)[0]), exact)


def labelings(codes: Codes) -> Codes:
    """(arrangements, prompts) all ways to share prompts out to categories of these sizes."""
    return np.array(list(_partitions(np.bincount(codes))))


def _arrangements(sizes: Codes) -> int:
    """In how many ways prompts fall into groups of these sizes; groups of one size have no names."""
    ways = math.factorial(int(sizes.sum()))
    for size in sizes.tolist():
        ways //= math.factorial(size)
    for same in np.bincount(sizes).tolist():
        ways //= math.factorial(same)
    return ways


def _partitions(sizes: Codes) -> Iterator[Codes]:
    """All such groupings as (prompts,) codes."""
    made = np.full(int(sizes.sum()), -1)

    def fill(left: list[int]) -> Iterator[Codes]:
        free = np.flatnonzero(made < 0)
        if not len(free):
            yield made.copy()
            return
        # The first free prompt goes with each size once, so that equal groups are not told apart.
        for size in sorted({int(sizes[code]) for code in left}):
            code = next(code for code in left if sizes[code] == size)
            for others in combinations(free[1:].tolist(), size - 1):
                chosen = [int(free[0]), *others]
                made[chosen] = code
                yield from fill([other for other in left if other != code])
                made[chosen] = -1

    yield from fill(list(range(len(sizes))))


def _between(x: Array, labels: Codes, sizes: Codes) -> Array:
    """(a,) sums of squares between groups, one for each labelling (a, prompts)."""
    rest = x - x.mean()
    sums = [np.sum(np.where(labels == code, rest, 0.0), axis=1) for code in range(len(sizes))]
    return np.asarray(np.sum([total**2 / size for total, size in zip(sums, sizes, strict=True)], axis=0))


def _counted(found: Array, seen: float, exact: bool) -> Resampled:
    """The share of arrangements at least as far out as the one seen."""
    beyond = int(np.sum(found >= seen - TIE * abs(seen)))
    p = beyond / len(found) if exact else (1 + beyond) / (1 + len(found))
    return Resampled(p, len(found), exact)


def signs(n: int, seed: int = 0, draws: int = DRAWS) -> tuple[Array, bool]:
    """(f, n) flips of the signs of n prompts, and whether these are all; the first sign stays: symmetry."""
    if 2 ** (n - 1) <= EXACT:
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)[::-1]
        rest = 1.0 - 2.0 * (bits & 1)
        return np.column_stack([np.ones(len(rest)), rest]), True
    drawn = np.random.default_rng([seed, 2]).integers(0, 2, size=(draws, n))
    return 1.0 - 2.0 * drawn, False


def sign_flip(x: Array, seed: int = 0) -> Resampled:
    """Whether differences x (prompts,) are centred on 0; two-sided."""
    flips, exact = signs(len(x), seed)
    found = _counted(np.abs(flips @ x), abs(float(x.sum())), exact)
    # Half of the flips stand for all of them: the other half only change the sign of the mean.
    return Resampled(found.p, 2 * found.arrangements if exact else found.arrangements, exact)


def max_t(x: Array, seed: int = 0) -> tuple[Array, bool]:
    """(cells,) p of every column of x (prompts, cells), familywise; and whether all flips were counted."""
    flips, exact = signs(len(x), seed)
    highest = np.array([np.max(np.abs(_t(flip, x))) for flip in flips])
    seen = np.abs(_t(np.ones(len(x)), x))
    beyond = np.sum(highest[:, None] >= seen * (1 - TIE), axis=0)
    return (beyond / len(flips) if exact else (1 + beyond) / (1 + len(flips))), exact


def _t(flip: Array, x: Array) -> Array:
    """(cells,) t of the means after a flip; squares do not change."""
    n = len(x)
    middle = flip @ x / n
    variance = (np.sum(x**2, axis=0) - n * middle**2) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = middle / np.sqrt(np.maximum(variance, 0.0) / n)
    return np.asarray(np.nan_to_num(t, nan=0.0))


def depth_clusters(x: Array, seed: int = 0) -> list[Cluster]:
    """Runs of neighbouring layers in x (prompts, layers) that are beyond t's 5 % together, and their p."""
    flips, exact = signs(len(x), seed)
    edge = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1))
    found = _runs(_t(np.ones(len(x)), x), edge)
    if not found:
        return []
    heaviest = np.array(
        [max((abs(mass) for *_, mass in _runs(_t(flip, x), edge)), default=0.0) for flip in flips]
    )
    return [Cluster(first, last, mass, _counted(heaviest, abs(mass), exact).p) for first, last, mass in found]


def _runs(t: Array, edge: float) -> list[tuple[int, int, float]]:
    """First, last and summed t of every run beyond the edge on one side."""
    side = np.where(np.abs(t) > edge, np.sign(t), 0)
    starts = np.flatnonzero(np.diff(side, prepend=0) != 0)
    ends = np.append(starts[1:], len(t))[: len(starts)]
    return [
        (int(first), int(end - 1), float(t[first:end].sum()))
        for first, end in zip(starts, ends, strict=True)
        if side[first]
    ]


def seed_labels(x: Array, seed: int = 0, draws: int = 5_000) -> Resampled:
    """Whether a seed means the same in every prompt: labels of x (prompts, seeds) permuted within prompts."""
    random = np.random.default_rng([seed, 3])
    rest = x - x.mean(axis=1, keepdims=True)
    drawn = random.permuted(np.broadcast_to(rest, (draws, *rest.shape)), axis=2)
    return _counted(np.sum(drawn.sum(axis=1) ** 2, axis=1), float(np.sum(rest.sum(axis=0) ** 2)), exact=False)


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """The 95 % interval of a mean, and the two-sided p of its being 0."""

    low: float
    high: float
    p: float


def bootstrap_t(x: Array, seed: int = 0, draws: int = 4_999) -> Bootstrapped:
    """The mean of x (prompts,) with an allowance for skew: studentised bootstrap."""
    n = len(x)
    drawn = x[np.random.default_rng([seed, 4]).integers(0, n, size=(draws, n))]
    se = drawn.std(axis=1, ddof=1) / np.sqrt(n)
    usable = se > 1e-9 * x.std(ddof=1)
    t = (drawn.mean(axis=1)[usable] - x.mean()) / se[usable]
    low, high = np.quantile(t, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    own = x.std(ddof=1) / np.sqrt(n)
    seen = x.mean() / own
    side = min(int(np.sum(t >= seen)), int(np.sum(t <= seen)))
    p = min(1.0, 2 * (side + 1) / (t.size + 1))
    return Bootstrapped(float(x.mean() - low * own), float(x.mean() - high * own), p)
