"""The closed forms on prompt means: of one study, or of thousands of simulated ones at once.

Every x is (..., prompts) and every y (..., prompts, seeds, modes); results keep the leading dims.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

__all__ = [
    "Components",
    "Equivalence",
    "Groups",
    "Mean",
    "agreement_of_raters",
    "category_mean",
    "components",
    "equivalence",
    "groups",
    "interval",
    "mahalanobis",
    "mean",
    "new_category_mean",
    "prediction",
    "prompt_means",
    "range_edge",
    "spread",
    "studentised",
    "tost",
    "variances",
]

Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its t-test against a value: all (...,); p is two-sided, greater and less are one-sided."""

    estimate: Array
    se: Array
    df: float
    t: Array
    p: Array
    low: Array
    high: Array

    @property
    def greater(self) -> Array:
        """(...,) one-sided p that the mean is above the value."""
        return np.asarray(stats.t.sf(self.t, self.df))

    @property
    def less(self) -> Array:
        """(...,) one-sided p that the mean is below the value."""
        return np.asarray(stats.t.cdf(self.t, self.df))


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two one-sided tests, (...,): p_low above -bound, p_high below it; low and high: the 90 % interval."""

    p_low: Array
    p_high: Array
    p: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class Groups:
    """One-way analysis of variance: f and p (...,), means (..., categories), sd (...,) within categories."""

    f: Array
    num_df: int
    den_df: int
    p: Array
    means: Array
    sd: Array
    sizes: Codes


@dataclass(frozen=True, slots=True)
class Components:
    """Mean squares and variances, each (...,), of prompt, prompt:seed, prompt:mode and residual.

    A variance below 0 is told as it is: an unbiased estimate. One that the design lacks is 0.
    """

    squares: dict[str, Array]
    dfs: dict[str, int]
    variances: dict[str, Array]


def prompt_means(y: Array) -> Array:
    """(..., prompts) the means of complete designs."""
    return np.asarray(y.mean(axis=(-2, -1)))


def interval(estimate: Array, se: Array, df: int, null: float = 0.0) -> Mean:
    """An estimate with its standard error as a t-test and a 95 % interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (estimate - null) / se
    reach = stats.t.ppf((1 + LEVEL) / 2, df) * se
    p = 2 * stats.t.sf(np.abs(t), df)
    return Mean(np.asarray(estimate), np.asarray(se), df, t, p, estimate - reach, estimate + reach)


def mean(x: Array, null: float = 0.0) -> Mean:
    """The mean over prompts."""
    n = x.shape[-1]
    return interval(x.mean(axis=-1), x.std(axis=-1, ddof=1) / np.sqrt(n), n - 1, null)


def tost(x: Array, bound: float) -> Equivalence:
    """Whether the mean lies within +-bound, by two one-sided t-tests."""
    n = x.shape[-1]
    return equivalence(x.mean(axis=-1), x.std(axis=-1, ddof=1) / np.sqrt(n), n - 1, bound)


def equivalence(middle: Array, se: Array, df: float, bound: float) -> Equivalence:
    """The same from an estimate with its standard error, whichever way they were found."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_low = stats.t.sf((middle + bound) / se, df)
        p_high = stats.t.cdf((middle - bound) / se, df)
    reach = stats.t.ppf(LEVEL, df) * se
    return Equivalence(p_low, p_high, np.maximum(p_low, p_high), middle - reach, middle + reach)


def prediction(x: Array) -> tuple[Array, Array, Array]:
    """(...,) low, high: where one new prompt is expected; and the probability that it is below 0."""
    n = x.shape[-1]
    middle = x.mean(axis=-1)
    se = x.std(axis=-1, ddof=1) * np.sqrt(1 + 1 / n)
    reach = stats.t.ppf((1 + LEVEL) / 2, n - 1) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        below = stats.t.cdf(-middle / se, n - 1)
    return middle - reach, middle + reach, below


def spread(x: Array) -> tuple[Array, Array, Array]:
    """(...,) the SD between prompts with its chi-square interval, which takes normal prompts for granted."""
    n = x.shape[-1]
    square = x.var(axis=-1, ddof=1)
    low, high = stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], n - 1)
    return np.sqrt(square), np.sqrt(square * (n - 1) / low), np.sqrt(square * (n - 1) / high)


def groups(x: Array, codes: Codes) -> Groups:
    """The test of equal category means; codes (prompts,) count categories from 0."""
    sizes = np.bincount(codes)
    k, n = len(sizes), len(codes)
    means = np.stack([x[..., codes == code].mean(axis=-1) for code in range(k)], axis=-1)
    within = np.sum((x - means[..., codes]) ** 2, axis=-1)
    between = np.sum(sizes * (means - x.mean(axis=-1, keepdims=True)) ** 2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(within / (n - k))
        f = (between / (k - 1)) / (within / (n - k))
    return Groups(f, k - 1, n - k, np.asarray(stats.f.sf(f, k - 1, n - k)), means, sd, sizes)


@cache
def range_edge(count: int, df: float) -> float:
    """The 95 % quantile of the studentized range of so many means.

    SciPy's own search goes over the whole axis, at some milliseconds a step; this one starts between the
    quantile of two means and Bonferroni's.
    """
    pairs = count * (count - 1) / 2
    low, high = (math.sqrt(2) * stats.t.isf((1 - LEVEL) / 2 / n, df) for n in (1, pairs))
    if count == 2:
        return float(low)

    def beyond(q: float) -> float:
        return float(stats.studentized_range.sf(q, count, df)) - (1 - LEVEL)

    return float(optimize.brentq(beyond, low, high, xtol=1e-10))


def category_mean(x: Array, codes: Codes) -> Mean:
    """The equally weighted mean of these categories, with the spread within them as its error."""
    found = groups(x, codes)
    k = len(found.sizes)
    se = found.sd * np.sqrt(np.sum(1 / found.sizes)) / k
    return interval(found.means.mean(axis=-1), se, found.den_df)


def new_category_mean(x: Array, codes: Codes) -> Mean:
    """The mean of category means, as a statement about categories that were not in the study too."""
    return mean(groups(x, codes).means)


def studentised(x: Array) -> tuple[Array, Array]:
    """(..., prompts) each prompt's externally studentised distance from the others, and its Bonferroni p."""
    n = x.shape[-1]
    rest = x - x.mean(axis=-1, keepdims=True)
    total = np.sum(rest**2, axis=-1, keepdims=True)
    share = rest**2 * n / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = rest * np.sqrt(n / (n - 1)) / np.sqrt((total - share) / (n - 2))
    return t, np.minimum(2 * stats.t.sf(np.abs(t), n - 2) * n, 1.0)


def mahalanobis(x: Array) -> tuple[Array, Array]:
    """(..., prompts) squared distances of x (..., prompts, features) and their Bonferroni p."""
    n, k = x.shape[-2:]
    rest = x - x.mean(axis=-2, keepdims=True)
    covariance = np.swapaxes(rest, -1, -2) @ rest / (n - 1)
    distance = np.einsum(
        "...ni,...ni->...n", rest, np.swapaxes(np.linalg.solve(covariance, _t(rest)), -1, -2)
    )
    p = stats.beta.sf(distance * n / (n - 1) ** 2, k / 2, (n - k - 1) / 2)
    return distance, np.minimum(p * n, 1.0)


def agreement_of_raters(x: Array) -> Array:
    """(...,) intraclass correlation of x (..., prompts, seeds): absolute agreement of single seeds."""
    n, k = x.shape[-2:]
    overall = x.mean(axis=(-2, -1), keepdims=True)
    rows, columns = x.mean(axis=-1, keepdims=True), x.mean(axis=-2, keepdims=True)
    between = k * np.sum((rows - overall) ** 2, axis=(-2, -1)) / (n - 1)
    raters = n * np.sum((columns - overall) ** 2, axis=(-2, -1)) / (k - 1)
    rest = np.sum((x - rows - columns + overall) ** 2, axis=(-2, -1)) / ((n - 1) * (k - 1))
    return np.asarray((between - rest) / (between + (k - 1) * rest + k * (raters - rest) / n))


def _t(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


def components(y: Array) -> Components:
    """Variances of a complete design: seeds nested in prompts, modes fixed and crossed with both."""
    prompts, seeds, modes = y.shape[-3:]
    prompt = y.mean(axis=(-2, -1), keepdims=True)
    by_seed, by_mode = y.mean(axis=-1, keepdims=True), y.mean(axis=-2, keepdims=True)
    all_mode, overall = y.mean(axis=(-3, -2), keepdims=True), y.mean(axis=(-3, -2, -1), keepdims=True)
    parts = {
        "prompt": (prompt - overall, prompts - 1),
        "prompt:seed": (by_seed - prompt, prompts * (seeds - 1)),
        "prompt:mode": (by_mode - prompt - all_mode + overall, (prompts - 1) * (modes - 1)),
        "Residual": (y - by_seed - by_mode + prompt, prompts * (seeds - 1) * (modes - 1)),
    }
    dfs = {name: df for name, (_, df) in parts.items()}
    squares = {name: _mean_square(part, y.shape, df) for name, (part, df) in parts.items()}
    return Components(squares, dfs, variances(squares, seeds, modes))


def _mean_square(part: Array, shape: tuple[int, ...], df: int) -> Array:
    """(...,) 0 where the design has no degree of freedom for it."""
    square = np.sum(np.broadcast_to(part, shape) ** 2, axis=(-3, -2, -1))
    return np.asarray(square / df if df else np.zeros_like(square))


def variances(squares: Mapping[str, Array], seeds: int, modes: int) -> dict[str, Array]:
    """The variances that mean squares stand for."""
    rest, own, other = squares["Residual"], squares["prompt:seed"], squares["prompt:mode"]
    if seeds == 1 or modes == 1:  # one of the two is all the noise there is
        noise = own if modes == 1 else other
        prompt = (squares["prompt"] - noise) / (seeds * modes)
        return {
            "prompt": prompt,
            "prompt:seed": np.zeros_like(noise),
            "prompt:mode": np.zeros_like(noise),
            "Residual": noise,
        }
    return {
        "prompt": (squares["prompt"] - own - other + rest) / (seeds * modes),
        "prompt:seed": (own - rest) / modes,
        "prompt:mode": (other - rest) / seeds,
        "Residual": rest,
    }
