"""The down-weighting of one experiment, from the log attention of its rows: pure functions of small arrays.

Within a row, log a_j - log a_k is a difference of scores, free of the row's normaliser. So one regression

    log a ~ row + distance + parallel

over keys of earlier generated sets says by how much a parallel key is attended to less than a singleton at
the same distance. `y` is always (query, key): log attention averaged over layers and heads.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dataset.visibility import asked_rows, existence, visibility

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

NAN = float("nan")
SAME = 1e-9  # what is left of `parallel` after distance, under which the two are one
FEWEST_STEPS = 3  # for a slope over steps


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One experiment's slots: who belongs to which set, who sees whom.

    slot_step, logical, parallel, kept are (slot,): kept rows were captured, parallel tokens are in a set of
    two or more before pruning. width is (step,); there and sees are (query, key): existed, visible.
    """

    slot_step: Ints
    logical: Ints
    width: Ints
    parallel: Mask
    kept: Mask
    there: Mask
    sees: Mask

    @property
    def distance(self) -> Floats:
        """(query, key): logical positions between them."""
        return (self.logical[:, None] - self.logical[None, :]).astype(np.float64)

    @property
    def generated(self) -> Mask:
        """(slot,): tokens that are not the prompt's."""
        return np.asarray(self.slot_step >= 0)

    @property
    def weight(self) -> Floats:
        """(query,): 1 / captured rows of its set, mostly its width: a set counts once; 0 for the prompt."""
        of = self.slot_step[self.generated & self.kept]
        rows = np.bincount(of, minlength=max(self.width.size, 1))[np.maximum(self.slot_step, 0)]
        return np.where(self.generated, 1.0 / np.maximum(rows, 1), 0.0)

    @property
    def siblings(self) -> Mask:
        """(query, key): two tokens of one set, in rows that were captured."""
        same = (self.slot_step[:, None] == self.slot_step[None, :]) & self.generated[:, None]
        np.fill_diagonal(same, False)
        return np.asarray(same & self.kept[:, None])


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The regressors as deviations from their row's mean, 0 for keys that do not count.

    keys, distance, parallel are (row, key), weight is (row, 1), the means are (row,).
    """

    keys: Mask
    distance: Floats
    parallel: Floats
    weight: Floats
    mean_distance: Floats
    mean_parallel: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A fit: delta of parallel, slope of distance, level (row,): a singleton's log at distance 0."""

    delta: float
    slope: float
    level: Floats


def layout(
    mode: str,
    logical: Ints,
    slot_step: Ints,
    pruned_at: Ints,
    width: Ints,
    queries: str = "all",
    window: int | None = None,
) -> Layout:
    """The layout of an experiment by what the cube says of its slots; `queries` are the rows captured."""
    step, width = np.asarray(slot_step), np.asarray(width)
    wide = np.isin(step, np.flatnonzero(width >= 2)) & (step >= 0)
    there = existence(step)
    sees = visibility(mode, logical, step, pruned_at, window)
    return Layout(step, np.asarray(logical), width, wide, asked_rows(queries, step), there, sees)


def context(where: Layout) -> Mask:
    """(query, key): visible keys of earlier generated sets, in captured rows; never the sink (key 0)."""
    step = where.slot_step
    earlier = (step >= 0)[None, :] & (step[None, :] < step[:, None]) & where.kept[:, None]
    keys = where.sees & earlier
    keys[:, :1] = False
    return np.asarray(keys)


def with_both(keys: Mask, parallel: Mask) -> Mask:
    """(row, key): the same keys, in rows that have a singleton and a parallel one among them."""
    n, wide = keys.sum(axis=1), (keys & parallel).sum(axis=1)
    return np.asarray(keys & ((wide > 0) & (wide < n))[:, None])


def undefined(where: Layout) -> str:
    """Why there is no down-weighting in an experiment of this layout, empty if there is one."""
    wide = int((where.width >= 2).sum())
    if not where.width.size:
        return "nothing was generated"
    if not wide:
        return "no parallel set: every set has one token"
    if wide == where.width.size:
        return "no singleton set: every set is parallel"
    keys = with_both(context(where), where.parallel)
    if not keys.any():
        return "no captured row sees both a singleton and a parallel key of earlier sets"
    if _inseparable(terms(keys, where.distance, where.parallel, where.weight)):
        return "parallel and distance are one: there are too few sets to tell them apart"
    return ""


def terms(keys: Mask, distance: Floats, parallel: Mask, weight: Floats) -> Terms:
    """Row by row deviations. keys, distance (row, key); parallel (key,); weight (row,)."""
    n = np.maximum(keys.sum(axis=1), 1)
    means = [np.where(keys, values, 0.0).sum(axis=1) / n for values in (distance, parallel)]
    far = np.where(keys, distance - means[0][:, None], 0.0)
    wide = np.where(keys, parallel - means[1][:, None], 0.0)
    return Terms(keys, far, wide, weight[:, None], means[0], means[1])


def coefficients(of: Terms) -> Floats:
    """(row, key): delta is the sum of these times log attention, whatever that is; NaN if undefined."""
    if not of.keys.any() or _inseparable(of):
        return np.full(of.keys.shape, np.nan)
    ratio = inner(of, of.distance, of.parallel) / inner(of, of.distance, of.distance)
    rest = of.parallel - ratio * of.distance
    return np.asarray(of.weight * rest / inner(of, rest, rest))


def fit(y: Floats, of: Terms) -> Line:
    """Least squares of y on row, distance and parallel; all NaN where undefined. y: (row, key)."""
    seen = np.where(of.keys, y, 0.0)
    delta = float((coefficients(of) * seen).sum())
    if np.isnan(delta):
        return Line(NAN, NAN, np.full(len(y), np.nan))
    far, both = (inner(of, of.distance, other) for other in (of.distance, of.parallel))
    slope = (inner(of, of.distance, seen) - delta * both) / far
    with np.errstate(invalid="ignore"):  # rows without keys have no level
        mean = seen.sum(axis=1) / of.keys.sum(axis=1)
    return Line(delta, slope, np.asarray(mean - slope * of.mean_distance - delta * of.mean_parallel))


def by_step(y: Floats, of: Terms, slot_step: Ints, steps: int) -> Floats:
    """(step,): delta of each step's rows beside the distance line of all; NaN where none sees both kinds."""
    seen = np.where(of.keys, y, 0.0)

    def each(a: Floats, b: Floats) -> Floats:
        generated = slot_step >= 0
        rows = (of.weight * a * b).sum(axis=1)[generated]
        return np.bincount(slot_step[generated], rows, steps).astype(np.float64)

    wide, both, found = (each(of.parallel, other) for other in (of.parallel, of.distance, seen))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(wide > 0, both / wide, 0.0)
        far = inner(of, of.distance, of.distance)
        left = far - (share * both).sum()
        slope = (inner(of, of.distance, seen) - (share * found).sum()) / left if left > SAME * far else NAN
        return np.where(wide > 0, (found - slope * both) / wide, np.nan)


def over_steps(delta: Floats) -> float:
    """The least-squares slope of the steps' deltas; NaN for fewer than three."""
    steps = np.flatnonzero(np.isfinite(delta))
    if steps.size < FEWEST_STEPS:
        return NAN
    late = steps - steps.mean()
    return float(late @ delta[steps] / (late @ late))


def per_set(y: Floats, keys: Mask, where: Layout) -> float:
    """Delta of whole sets: log of the attention that all visible tokens of a set receive together."""
    sets = where.width.size
    first = np.searchsorted(where.slot_step, np.arange(sets))
    seen = np.add.reduceat(keys, first, axis=1, dtype=np.intp) > 0
    with np.errstate(divide="ignore"):
        total = np.log(np.add.reduceat(np.where(keys, np.exp(y), 0.0), first, axis=1))
    of = terms(seen, where.distance[:, first], where.parallel[first], where.weight)
    return fit(total, of).delta


def beside_siblings(y: Floats, level: Floats, where: Layout) -> tuple[float, float]:
    """Log of sibling attention over a reference, averaged over pairs weighted 1 / width.

    First over the row's line at distance 0 (`level`), then over its visible keys at distance 1; NaN where no
    captured row sees a sibling and its reference.
    """
    seen = np.isfinite(y) & where.sees
    near = context(where) & (where.distance == 1) & seen
    with np.errstate(invalid="ignore"):
        last = np.where(near, y, 0.0).sum(axis=1) / near.sum(axis=1)
    pairs = where.siblings & seen
    return _weighted(y - level[:, None], pairs, where.weight), _weighted(
        y - last[:, None], pairs, where.weight
    )


def legacy_ratio(weights: Floats, where: Layout) -> float:
    """The formula of earlier code: mean weight of parallel keys over that of all others, sink and all.

    weights: (query, key), averaged over layers and heads. Over generated rows that see a parallel key.
    """
    seen = where.sees & (where.kept & where.generated)[:, None]
    wide, others = seen & where.parallel, seen & ~where.parallel
    rows = wide.any(axis=1) & others.any(axis=1)
    if not rows.any():
        return NAN
    means = [
        np.where(kind, weights, 0.0).sum(axis=1)[rows] / kind.sum(axis=1)[rows] for kind in (wide, others)
    ]
    return float((means[0] / means[1]).mean())


def inner(of: Terms, a: Floats, b: Floats) -> float:
    """The weighted sum of a product over rows and keys. a, b: (row, key)."""
    return float((of.weight * a * b).sum())


def _inseparable(of: Terms) -> bool:
    far, both, wide = (
        inner(of, a, b)
        for a, b in ((of.distance, of.distance), (of.distance, of.parallel), (of.parallel, of.parallel))
    )
    return not (far > 0 and wide * far - both**2 > SAME * wide * far)


def _weighted(values: Floats, pairs: Mask, weight: Floats) -> float:
    pairs = pairs & np.isfinite(values)
    share = np.broadcast_to(weight[:, None], pairs.shape)[pairs]
    return float(values[pairs] @ share / share.sum()) if share.size else NAN
