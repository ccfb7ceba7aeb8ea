"""REML for linear mixed models of up to about a thousand rows: dense, with exact first and second slopes.

V = s2 (I + sum_i g_i G_i). The relative variances and covariances g are the entries of Lambda Lambda' of
each random term, theta those of the triangular Lambda (lme4's parameters). s2 is profiled out. Minimised is

    f(g) = log|V/s2| + log|Q'(V/s2)^-1 Q| + (n - p) log r2,        r2 = y'Py s2,

with Q an orthonormal basis of the fixed effects. Derivatives are taken in g, where V is linear and where the
slope at variance 0 tells whether 0 is the optimum; in theta it always vanishes there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize

__all__ = [
    "LARGEST",
    "Optimum",
    "Problem",
    "compact",
    "kernels",
    "maximise",
    "quadratic",
    "relative",
    "second",
    "state",
    "triangle",
]

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

STARTS = (1.0, 0.2, 5.0, 20.0)  # theta on the diagonal; lme4 begins at 1
LEANINGS = (-0.7, 0.7)  # theta off the diagonal: covariances of either sign may have an optimum each
LIFTS = (5e-2, 5e-4, 5e-6)  # variances to leave a false boundary with
LARGEST = 1e5  # theta: far beyond it V cannot be inverted in double precision
SMALL = 1e-2  # a theta below it is tried at 0
DEAD = 1e-4  # a theta below it has next to no slope whatever its variance's slope: it counts as 0
FLAT = 1e-10  # what counts as no change of f
STEEP = 1e-6  # a slope of f that is not rounding
NEWTON_STEPS = 30
RELEASES = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """y (n,), q (n, p) orthonormal, kernels (r, n, n), sizes: how many effects each random term has.

    Left out may be `elsewhere` contrasts that no random effect reaches, with the sum of squares `rest`.
    """

    y: Array
    q: Array
    kernels: Array
    sizes: tuple[int, ...]
    elsewhere: int = 0
    rest: float = 0.0

    @property
    def freedom(self) -> int:
        """How many contrasts are free of the fixed effects: n - p."""
        return int(len(self.y) - self.q.shape[1] + self.elsewhere)


@dataclass(frozen=True, slots=True)
class State:
    """f at one g, its slope (r,), P s2 (n, n), P s2 y (n,) and r2."""

    value: float
    slope: Array
    p: Array
    py: Array
    rss: float


@dataclass(frozen=True, slots=True)
class Optimum:
    """theta (m,), g (r,), f there, which theta are lme4's bounded ones (m,), and whether it is an optimum."""

    theta: Array
    g: Array
    state: State
    bounded: Mask
    converged: bool


def kernels(levels: npt.NDArray[np.int64], values: Array) -> Array:
    """(k (k + 1) / 2, n, n) what each variance and covariance of a random term is multiplied with in V."""
    same = levels[:, None] == levels[None, :]
    made = []
    for col in range(values.shape[1]):
        for row in range(col, values.shape[1]):
            outer = np.outer(values[:, row], values[:, col])
            made.append(same * (outer if row == col else outer + outer.T))
    return np.asarray(made, dtype=np.float64)


def triangle(size: int) -> list[tuple[int, int]]:
    """Places of a lower triangle, column by column, as lme4 counts theta."""
    return [(row, col) for col in range(size) for row in range(col, size)]


def quadratic(sizes: tuple[int, ...]) -> tuple[Array, Mask]:
    """(r, m, m) the matrices K with g_i = theta' K_i theta / 2, and (m,) which theta are bounded by 0."""
    places = [(term, *place) for term, size in enumerate(sizes) for place in triangle(size)]
    index = {place: i for i, place in enumerate(places)}
    k = np.zeros((len(places),) * 3)
    for i, (term, row, col) in enumerate(places):
        for inner in range(col + 1):
            a, b = index[term, row, inner], index[term, col, inner]
            k[i, a, b] += 1
            k[i, b, a] += 1
    return k, np.array([row == col for _, row, col in places])


def state(problem: Problem, g: Array) -> State:
    """f, its slope in g and what they are made of."""
    v = np.eye(len(problem.y)) + np.tensordot(g, problem.kernels, axes=1)
    root = linalg.cholesky(v, lower=True, check_finite=False)
    below, _ = linalg.lapack.dpotri(root, lower=1)  # a third of the work of solving for the identity
    inverse = below + np.tril(below, -1).T
    vq = inverse @ problem.q
    inner = linalg.cholesky(problem.q.T @ vq, lower=True)
    half = linalg.solve_triangular(inner, vq.T, lower=True)
    projector = inverse - half.T @ half
    py = projector @ problem.y
    rss = float(problem.y @ py) + problem.rest
    logs = 2 * (np.log(np.diag(root)).sum() + np.log(np.diag(inner)).sum())
    slope = np.tensordot(problem.kernels, projector, axes=2)
    slope -= problem.freedom / rss * forms(problem.kernels, py)
    return State(float(logs + problem.freedom * np.log(rss)), slope, projector, py, rss)


def forms(matrices: Array, vector: Array) -> Array:
    """(r,) v' G_i v."""
    return np.asarray((matrices @ vector) @ vector)


def second(p: Array, py: Array, matrices: Array) -> tuple[Array, Array]:
    """(r, r) tr(P G_i P G_j) and y' P G_i P G_j P y."""
    pg = np.asarray([p @ matrix for matrix in matrices])
    traces = np.array([[np.vdot(left, right.T) for right in pg] for left in pg])
    gpy = matrices @ py
    return traces, gpy @ p @ gpy.T


def curvature(problem: Problem, at: State) -> Array:
    """(r, r) second derivatives of f in g."""
    traces, bends = second(at.p, at.py, problem.kernels)
    q = forms(problem.kernels, at.py)
    return np.asarray(-traces + problem.freedom * (2 * bends / at.rss - np.outer(q, q) / at.rss**2))


def compact(problem: Problem) -> Problem:
    """The same criterion from the contrasts that random effects reach: fewer rows, smaller matrices."""
    n = len(problem.y)
    outside = np.eye(n) - problem.q @ problem.q.T
    variances = problem.kernels[quadratic(problem.sizes)[1]].sum(axis=0)
    values, vectors = np.linalg.eigh(outside @ variances @ outside)
    reached = vectors[:, values > n * np.finfo(np.float64).eps * values[-1]]
    y = reached.T @ problem.y
    left = outside @ problem.y - reached @ y
    kernels = np.asarray([reached.T @ kernel @ reached for kernel in problem.kernels])
    elsewhere = problem.freedom - len(y)
    return Problem(y, np.empty((len(y), 0)), kernels, problem.sizes, elsewhere, float(left @ left))


def maximise(problem: Problem) -> Optimum:
    """The REML estimate of the whole problem, found in its compact form."""
    theta, converged = _optimum(compact(problem))
    k, bounded = quadratic(problem.sizes)
    g = relative(k, theta)
    return Optimum(theta, g, state(problem, g), bounded, converged)


def _optimum(problem: Problem) -> tuple[Array, bool]:
    """(m,) the best theta of several starts, off false boundaries, by Newton; whether it is an optimum."""
    k, bounded = quadratic(problem.sizes)
    found = [_descend(problem, k, bounded, start) for start in _starts(problem.sizes, bounded)]
    theta = min(found, key=lambda pair: pair[1])[0]
    found += [_descend(problem, k, bounded, start) for start in _second_looks(theta, bounded)]
    theta = min(found, key=lambda pair: pair[1])[0]
    for _ in range(RELEASES):
        theta = _newton(problem, k, bounded, _snap(problem, k, bounded, theta))
        theta = _snap(problem, k, bounded, theta)
        released = _release(problem, k, theta)
        if released is None:
            break
        tried, value = _descend(problem, k, bounded, released)
        # A line search may jump back to the saddle that was just left.
        theta = tried if value <= state(problem, relative(k, released)).value else released
    at = state(problem, relative(k, theta))
    return theta, _release(problem, k, theta) is None and _stationary(problem, k, bounded, theta, at)


def _starts(sizes: tuple[int, ...], bounded: Mask) -> list[Array]:
    """(m,) thetas to begin at: all terms alike, with covariances, and each term above the others."""
    leaning = [] if bounded.all() else [np.where(bounded, 1.0, lean) for lean in LEANINGS]
    owner = np.repeat(np.arange(len(sizes)), [len(triangle(size)) for size in sizes])
    ahead = [np.where(owner == term, 1.0, 0.2) * bounded for term in range(len(sizes))] if sizes[1:] else []
    return [start * bounded for start in STARTS] + leaning + ahead


def _second_looks(theta: Array, bounded: Mask) -> list[Array]:
    """(m,) where a better optimum than theta may hide: beyond a variance of 0, or a covariance's sign."""
    zeros = np.flatnonzero(bounded & (theta < DEAD))
    # What such a variance left in the residual, taken out of it, makes all other ratios larger.
    grown = [np.where(np.arange(len(theta)) == zero, 1.0, 2 * theta) for zero in zeros]
    turned = [] if bounded.all() else [np.where(bounded, np.maximum(theta, 0.2), -theta)]
    return grown + turned


def relative(k: Array, theta: Array) -> Array:
    """(r,) g at theta."""
    return np.asarray(0.5 * forms(k, theta))


def _descend(problem: Problem, k: Array, bounded: Mask, start: Array) -> tuple[Array, float]:
    """Downhill in theta with exact gradients."""

    def value(theta: Array) -> tuple[float, Array]:
        here = state(problem, relative(k, theta))
        return here.value, here.slope @ (k @ theta)

    bounds = [(0.0 if low else -LARGEST, LARGEST) for low in bounded]
    options = {"maxiter": 300, "ftol": 1e-13, "gtol": 1e-7}
    done = optimize.minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return done.x, float(done.fun)


def _snap(problem: Problem, k: Array, bounded: Mask, theta: Array) -> Array:
    """Thetas that are 0 but for the optimiser's patience, put at 0."""
    best = state(problem, relative(k, theta)).value
    for i in np.flatnonzero(bounded & (theta < SMALL)):
        tried = theta.copy()
        tried[i] = 0.0
        value = state(problem, relative(k, tried)).value
        if value <= best + FLAT and _release(problem, k, tried) is None:
            theta, best = tried, min(value, best)
    return theta


def _newton(problem: Problem, k: Array, bounded: Mask, theta: Array) -> Array:
    """Newton's method on the thetas that are not at 0, until steps no longer change f."""
    for _ in range(NEWTON_STEPS):
        here = state(problem, relative(k, theta))
        step, gain = _step(problem, k, bounded, theta, here)
        if gain < 1e-14 * max(1.0, abs(here.value)):
            return theta
        for scale in 0.5 ** np.arange(12):
            tried = theta + scale * step
            feasible = np.all(tried[bounded] >= 0) and np.all(np.abs(tried) <= LARGEST)
            if feasible and state(problem, relative(k, tried)).value < here.value + FLAT:
                break
        else:
            return theta
        theta = tried
    return theta


def _step(problem: Problem, k: Array, bounded: Mask, theta: Array, here: State) -> tuple[Array, float]:
    """(m,) Newton's step in theta, 0 where theta sits at its bound, and twice the fall of f it promises."""
    bend, slope = _in_theta(problem, k, theta, here)
    free = ~(bounded & (theta == 0))
    values, vectors = np.linalg.eigh(bend[np.ix_(free, free)])
    along = vectors.T @ slope[free]
    # A direction in which nothing bends is one that does not change V: leave it alone.
    use = np.abs(values) > 1e-11 * np.abs(values).max(initial=0.0)
    step = np.zeros(len(theta))
    step[free] = -vectors[:, use] @ (along[use] / np.abs(values[use]))
    return step, float(-step @ slope)


def _in_theta(problem: Problem, k: Array, theta: Array, here: State) -> tuple[Array, Array]:
    """(m, m) and (m,): second and first derivatives of f in theta."""
    jacobian = k @ theta
    bend = jacobian.T @ curvature(problem, here) @ jacobian + np.tensordot(here.slope, k, axes=1)
    return bend, here.slope @ jacobian


def _release(problem: Problem, k: Array, theta: Array) -> Array | None:
    """A theta with lower f where a variance of 0, or a direction of none, should grow; or None."""
    here, at = state(problem, relative(k, theta)), 0
    for size in problem.sizes:
        places = triangle(size)
        block = slice(at, at + len(places))
        root, slope = np.zeros((size, size)), np.zeros((size, size))
        for (row, col), value, fall in zip(places, theta[block], here.slope[block], strict=True):
            root[row, col] = value
            slope[row, col] = slope[col, row] = fall if row == col else fall / 2
        dead = _growing(root, slope)
        for lift in LIFTS if dead is not None else ():
            tried, moved = theta.copy(), _root(np.column_stack([root, np.sqrt(lift) * dead]))
            tried[block] = [moved[place] for place in places]
            if state(problem, relative(k, tried)).value < here.value - FLAT:
                return tried
        at += len(places)
    return None


def _growing(root: Array, slope: Array) -> Array | None:
    """(k,) the direction without variance in which f falls fastest; None if it falls in none."""
    left, sizes, _ = np.linalg.svd(root)
    dead = left[:, sizes <= max(DEAD, 1e-6 * sizes[0])]
    if not dead.size:
        return None
    values, vectors = np.linalg.eigh(dead.T @ slope @ dead)
    return np.asarray(dead @ vectors[:, 0]) if values[0] < -STEEP else None


def _root(wide: Array) -> Array:
    """(k, k) the triangular root of wide wide'."""
    upper = np.linalg.qr(wide.T, mode="r")
    return np.asarray((np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None] * upper).T)


def _stationary(problem: Problem, k: Array, bounded: Mask, theta: Array, here: State) -> bool:
    """Whether no step promises a fall of f, and f bends upwards in every direction that counts."""
    _, gain = _step(problem, k, bounded, theta, here)
    bend, _ = _in_theta(problem, k, theta, here)
    free = ~(bounded & (theta == 0))
    values = np.linalg.eigvalsh(bend[np.ix_(free, free)])
    upwards = values.size == 0 or values[0] > -1e-6 * np.abs(values).max()
    return bool(gain < 1e-8 and upwards and np.all(np.abs(theta) < LARGEST))
