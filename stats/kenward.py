"""What fixed effects estimated by REML are worth: Kenward & Roger 1997, Satterthwaite, Fai & Cornelius 1996.

Everything is in the basis in which the fixed effects were estimated; a hypothesis is rows (l, p) of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from .reml import Optimum, Problem, quadratic, second

__all__ = ["FTest", "Inference", "TTests", "f_test", "inference", "t_tests"]

Array = npt.NDArray[np.floating[Any]]

LEVEL = 0.95
NEGLIGIBLE = 1e-10


@dataclass(frozen=True, slots=True)
class Inference:
    """What tests are made of, with r (co)variances, the residual last.

    Everything is in a unit of the response in which nothing overflows; tests multiply by it at the end.
    beta (p,); covariance (p, p) as estimated and as adjusted by Kenward & Roger; its slope (r, p, p) in each
    component; the components' covariance (r, r) from the expected and from the observed information.
    """

    beta: Array
    covariance: Array
    adjusted: Array
    slope: Array
    expected: Array
    observed: Array
    unit: float


@dataclass(frozen=True, slots=True)
class TTests:
    """estimate, se, df, t, p, low and high, each (l,): every row of a hypothesis by itself."""

    estimate: Array
    se: Array
    df: Array
    t: Array
    p: Array
    low: Array
    high: Array

    def columns(self) -> dict[str, Array]:
        """The columns of a table: estimate, se, df, t, p, ci_low, ci_high."""
        return {
            "estimate": self.estimate,
            "se": self.se,
            "df": self.df,
            "t": self.t,
            "p": self.p,
            "ci_low": self.low,
            "ci_high": self.high,
        }


@dataclass(frozen=True, slots=True)
class FTest:
    """All rows of a hypothesis at once."""

    f: float
    num_df: int
    den_df: float
    p: float


def inference(problem: Problem, best: Optimum, fitted: Array, unit: float) -> Inference:
    """Estimates and their precision, for the response unit * (q @ fitted + problem.y)."""
    n, p = problem.q.shape
    s2 = best.state.rss / (n - p)
    v = np.eye(n) + np.tensordot(best.g, problem.kernels, axes=1)
    weighted = np.linalg.solve(v, problem.q) / s2
    covariance = np.linalg.inv(problem.q.T @ weighted)
    matrices = np.concatenate([problem.kernels, np.eye(n)[None]])
    projector, py = best.state.p / s2, best.state.py / s2
    traces, bends = second(projector, py, matrices)
    expected = 2 * np.linalg.inv(traces)
    spread = matrices @ weighted @ covariance
    slope = np.asarray(covariance @ weighted.T @ spread)
    bias = np.einsum("ij,iab->jab", expected, spread.transpose(0, 2, 1) @ projector)
    adjusted = covariance + 2 * np.einsum("jab,jbc->ac", bias, spread)
    fall = np.einsum("kii->k", projector @ matrices) - np.einsum("kab,a,b->k", matrices, py, py)
    observed = _observed(problem, best, s2, fall, 2 * bends - traces)
    beta = fitted + covariance @ (weighted.T @ problem.y)
    return Inference(beta, covariance, adjusted, slope, expected, observed, unit)


def _observed(problem: Problem, best: Optimum, s2: float, fall: Array, bend: Array) -> Array:
    """(r, r) covariance of the components from the curvature of the criterion in theta and s2.

    In theta, because a variance of 0 then has no slope and drops out, as in lme4's parametrisation.
    """
    k, _ = quadratic(problem.sizes)
    m = len(best.theta)
    jacobian = np.zeros((m + 1, m + 1))
    jacobian[:m, :m], jacobian[:m, m], jacobian[m, m] = s2 * (k @ best.theta), best.g, 1.0
    hessian = jacobian.T @ bend @ jacobian
    hessian[:m, :m] += s2 * np.tensordot(fall[:m], k, axes=1)
    cross = fall[:m] @ (k @ best.theta)
    hessian[:m, m] += cross
    hessian[m, :m] += cross
    # Each in its own unit: theta and s2 may be many orders apart without any direction being empty.
    diagonal = np.diag(hessian)
    unit = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(hessian / np.outer(unit, unit))
    use = values > 1e-11 * values.max()
    half = (jacobian / unit) @ vectors[:, use] / np.sqrt(values[use])
    return np.asarray(2 * half @ half.T)


def t_tests(of: Inference, rows: Array, kenward: bool = True) -> TTests:
    """Each row against 0 and its 95 % interval: by Kenward & Roger, or by Satterthwaite."""
    covariance, spread = (of.adjusted, of.expected) if kenward else (of.covariance, of.observed)
    estimate = of.unit * (rows @ of.beta)
    se = of.unit * np.sqrt(np.einsum("la,ab,lb->l", rows, covariance, rows))
    df = _degrees(of, rows, spread)
    t = estimate / se
    reach = stats.t.ppf((1 + LEVEL) / 2, df) * se
    return TTests(estimate, se, df, t, 2 * stats.t.sf(np.abs(t), df), estimate - reach, estimate + reach)


def _degrees(of: Inference, rows: Array, spread: Array) -> Array:
    """(l,) df by which a variance estimate with this mean and spread would be a chi-square."""
    variance = np.einsum("la,ab,lb->l", rows, of.covariance, rows)
    slope = np.einsum("la,kab,lb->lk", rows, of.slope, rows)
    return np.asarray(2 * variance**2 / np.einsum("li,ij,lj->l", slope, spread, slope))


def f_test(of: Inference, rows: Array, kenward: bool = True) -> FTest:
    """All rows against 0 at once: Kenward & Roger's scaled F, or Fai & Cornelius' with Satterthwaite's df."""
    return _kenward_f(of, rows) if kenward else _fai_cornelius_f(of, rows)


def _kenward_f(of: Inference, rows: Array) -> FTest:
    """Kenward & Roger's F: scaled so that its first two moments are those of F(num, den)."""
    num = len(rows)
    relative = np.linalg.solve(rows @ of.covariance @ rows.T, rows @ of.slope @ rows.T)
    traces = np.einsum("kii->k", relative)
    a1 = float(traces @ of.expected @ traces)
    a2 = float(np.einsum("ij,iab,jba->", of.expected, relative, relative))
    estimate = rows @ of.beta
    f = float(estimate @ np.linalg.solve(rows @ of.adjusted @ rows.T, estimate)) / num
    den, scaling = _moments(num, a1, a2)
    if not (den > 0 and scaling > 0):  # no F has the moments that are asked for: too few groups
        return FTest(float("nan"), num, float("nan"), float("nan"))
    return FTest(f * scaling, num, den, float(stats.f.sf(f * scaling, num, den)))


def _moments(num: int, a1: float, a2: float) -> tuple[float, float]:
    """Kenward & Roger's m and lambda from l = num, A1 and A2, with limits where their quotients are 0/0."""
    if num == 1:
        return 2 / a2, 1.0
    b = (a1 + 6 * a2) / (2 * num)
    g = ((num + 1) * a1 - (num + 4) * a2) / ((num + 2) * a2)
    whole = 3 * num + 2 * (1 - g)
    c1, c2, c3 = g / whole, (num - g) / whole, (num + 2 - g) / whole
    inverse_mean, middle, bottom = 1 - a2 / num, 1 - c2 * b, 1 - c3 * b
    # Where F is exact the two vanish together, at m = 2.
    ratio = 1.0 if max(abs(inverse_mean), abs(middle)) < NEGLIGIBLE else inverse_mean / middle
    excess = (1 + c1 * b) * ratio**2 - bottom  # (l rho - 1) times bottom
    if abs(excess) < NEGLIGIBLE:
        return float("inf"), inverse_mean
    m = 4 + (num + 2) * bottom / excess
    return m, (1.0 if abs(m - 2) < NEGLIGIBLE else m * inverse_mean / (m - 2))


def _fai_cornelius_f(of: Inference, rows: Array) -> FTest:
    """The mean of independent squared t, with the df whose F has the mean of that sum."""
    values, vectors = np.linalg.eigh(rows @ of.covariance @ rows.T)
    apart = vectors.T @ rows
    df = _degrees(of, apart, of.observed)
    f = float(np.mean((apart @ of.beta) ** 2 / values))
    den = _pooled(df)
    return FTest(f, len(rows), den, float(stats.f.sf(f, len(rows), den)))


def _pooled(df: Array) -> float:
    """The df of a mean of squared t with these df; 2 where one of them has no mean."""
    if np.ptp(df) < 1e-8 * df.max():
        return float(df.mean())
    if df.min() <= 2:
        return 2.0
    mean = float(np.sum(df / (df - 2)))
    return 2 * mean / (mean - len(df))
