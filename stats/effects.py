"""How large effects are, and how large they would have to be to be seen: d, f, agreement, power."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from .closed import LEVEL

__all__ = [
    "agreement",
    "category_detectable",
    "category_power",
    "cohen_d",
    "d_interval",
    "difference_power",
    "f_estimate",
    "f_interval",
    "hedges_g",
    "mean_detectable",
    "one_sided_detectable",
    "one_sided_power",
    "outlier_power",
    "prompts_for_half_width",
    "prompts_per_category",
    "seeds_detectable",
    "tost_power",
]

Array = npt.NDArray[np.floating[Any]]

ALPHA = 0.05
POWER = 0.8
FAR = 1e9
MOST = 100_000  # prompts: nobody runs more


def cohen_d(x: Array) -> float:
    """Mean over SD of x (prompts,): d of one sample, d_z where x are differences."""
    return float(x.mean() / x.std(ddof=1))


def hedges_g(x: Array) -> float:
    """Cohen's d of x (prompts,) without its bias at small n; by the exact factor, not its approximation."""
    df = len(x) - 1
    factor = math.sqrt(2 / df) * math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2))
    return factor * cohen_d(x)


def d_interval(d: float, n: int) -> tuple[float, float]:
    """The 95 % interval of d over n prompts, from the non-central t."""
    t, root = d * math.sqrt(n), math.sqrt(n)

    def centre(share: float) -> float:
        return _root(lambda nc: _below(t, n - 1, nc) - share, t - 1, t + 1)

    return centre((1 + LEVEL) / 2) / root, centre((1 - LEVEL) / 2) / root


def _below(t: float, df: int, centre: float) -> float:
    """The non-central t's distribution, which SciPy gives as NaN where it is 0 or 1."""
    below = float(stats.nct.cdf(t, df, centre))
    return float(centre < t) if math.isnan(below) else below


def f_estimate(f: float, num_df: int, den_df: int) -> float:
    """Cohen's f between groups from an F, corrected as omega squared is: no more than what beats chance."""
    return math.sqrt(max(0.0, num_df * (f - 1) / (num_df + den_df + 1)))


def f_interval(f: float, num_df: int, den_df: int) -> tuple[float, float]:
    """The 95 % interval of Cohen's f, from the non-central F."""
    n = num_df + den_df + 1

    def centre(share: float) -> float:
        if stats.f.cdf(f, num_df, den_df) <= share:
            return 0.0
        return _root(lambda nc: _below_f(f, num_df, den_df, nc) - share, 1e-9, n * (1 + f))

    return math.sqrt(centre((1 + LEVEL) / 2) / n), math.sqrt(centre((1 - LEVEL) / 2) / n)


def _below_f(f: float, num_df: int, den_df: int, centre: float) -> float:
    """The non-central F's distribution, which SciPy gives as NaN far out, and wrong where it is central."""
    if not centre:
        return float(stats.f.cdf(f, num_df, den_df))
    with warnings.catch_warnings():  # far out it says that a series stops early, and is near enough
        warnings.simplefilter("ignore", RuntimeWarning)
        beyond = float(stats.ncf.sf(f, num_df, den_df, centre))
    return float(centre < num_df * f) if math.isnan(beyond) else 1 - beyond


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, looked for in steps that double."""
    step = 1.0
    while falling(low) < 0 and step < FAR:
        low, step = low - step, 2 * step
    step = 1.0
    while falling(high) > 0 and step < FAR:
        high, step = high + step, 2 * step
    return float(optimize.brentq(falling, low, high, xtol=1e-10))


def agreement(count: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of the share of prompts that agree."""
    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="beta")
    return float(np.nan_to_num(low, nan=0.0)), float(np.nan_to_num(high, nan=1.0))


def category_power(f: float, prompts: int, categories: int) -> float:
    """The chance to see categories that differ by Cohen's f."""
    dfs = categories - 1, prompts - categories
    return 1 - _below_f(float(stats.f.isf(ALPHA, *dfs)), *dfs, prompts * f**2)


def category_detectable(prompts: int, categories: int, power: float = POWER) -> float:
    """The smallest Cohen's f that is seen with this power."""
    return _root(lambda f: power - category_power(f, prompts, categories), 1e-6, 2.0)


def prompts_per_category(f: float, categories: int, power: float = POWER) -> int:
    """How many prompts in each category it takes to see Cohen's f."""
    return _fewest(lambda n: category_power(f, n * categories, categories) >= power, 2)


def mean_detectable(sd: float, prompts: int, power: float = POWER) -> float:
    """The smallest mean (or mean difference) that is seen with this power; sd is that between prompts."""
    return sd * _root(lambda d: power - difference_power(1.0, prompts, d), 1e-6, 2.0)


def difference_power(sd: float, prompts: int, effect: float) -> float:
    """The chance that a t-test sees a mean (or mean difference) of this size; sd is that between prompts."""
    edge = float(stats.t.isf(ALPHA / 2, prompts - 1))
    return _beyond(edge, prompts - 1, math.sqrt(prompts) * effect / sd)


def one_sided_power(sd: float, prompts: int, distance: float) -> float:
    """The chance to show a mean beyond a bound on one side that it is this far beyond; sd between prompts."""
    edge, centre = float(stats.t.isf(ALPHA, prompts - 1)), math.sqrt(prompts) * distance / sd
    return 1.0 - _below(edge, prompts - 1, centre)


def one_sided_detectable(sd: float, prompts: int, power: float = POWER) -> float:
    """How far beyond a bound a mean must be to be shown there with this power; sd is that between prompts."""
    return sd * _root(lambda d: power - one_sided_power(1.0, prompts, d), 0.0, 2.0)


def seeds_detectable(sd: float, prompts: int, seeds: int, power: float = POWER) -> float:
    """The smallest SD of what seeds do alike in all prompts that is seen; sd is that left within prompts."""
    dfs = (seeds - 1, (seeds - 1) * (prompts - 1))
    edge = float(stats.f.isf(ALPHA, *dfs))
    centre = _root(lambda nc: power - 1 + _below_f(edge, *dfs, nc), 1e-9, 10.0)
    return sd * math.sqrt(centre / (prompts * (seeds - 1)))


def _beyond(edge: float, df: int, centre: float) -> float:
    """The chance of |t| beyond an edge."""
    return 1 - _below_f(edge**2, 1, df, centre**2)


def prompts_for_half_width(sd: float, width: float) -> int:
    """How many prompts it takes for an interval of the mean no wider than +-width."""
    return _fewest(lambda n: float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd <= width * math.sqrt(n), 2)


def _fewest(enough: Callable[[int], bool], least: int) -> int:
    """The smallest whole number that is enough; more is enough too."""
    if enough(least):
        return least
    high = 2 * least
    while not enough(high) and high < MOST:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def outlier_power(shift: float, prompts: int) -> float:
    """The chance that a prompt this many SDs off is flagged, Bonferroni over all."""
    edge = stats.t.isf(ALPHA / 2 / prompts, prompts - 2)
    centre = shift * math.sqrt((prompts - 1) / prompts)
    return _beyond(edge, prompts - 2, centre)


def tost_power(sd: float, prompts: int, bound: float) -> float:
    """The chance to show equivalence within the bound when there is no difference at all."""
    df, se = prompts - 1, sd / math.sqrt(prompts)
    shares = (np.arange(4_000) + 0.5) / 4_000
    seen = np.sqrt(stats.chi2.ppf(shares, df) / df) * se  # what the standard error may turn out to be
    room = bound - stats.t.ppf(LEVEL, df) * seen
    return float(np.mean(np.where(room > 0, 2 * stats.norm.cdf(np.maximum(room, 0) / se) - 1, 0.0)))
