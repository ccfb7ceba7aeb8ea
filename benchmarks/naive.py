"""Ways to analyse such experiments that are often seen and do not hold: kept to show by how much.

Every y is (studies, prompts, seeds, modes), every x (studies, prompts), as in `tempocube.stats.closed`.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from tempocube.stats import closed

Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]

CELLS = 28 * 24  # layers x heads
CELL_SD = 0.5  # how they scatter within an experiment, on the log scale
STEPS, STEP_SD = 4, 0.12  # what the earlier analysis averaged, and how its steps scatter
DRAWS = 2_000
AT_ONCE = 1_000  # studies: what bounds the memory
Z = 1.959964


def coverage(y: Array, mean: float, random: np.random.Generator) -> dict[str, float]:
    """Shares of y whose nominal 95 % intervals hold the mean."""
    x, all_of_it = closed.prompt_means(y), closed.mean(y.reshape(len(y), -1))
    return {
        "cells_z": _held(*_of_cells(y, random), mean),
        "one_prompt": _held(*_of_one_prompt(y, random), mean),
        "experiments_t": _held(all_of_it.low, all_of_it.high, mean),
        "bootstrap": _held(*_bootstrap(x, random), mean),
    }


def category(y: Array, codes: Codes, random: np.random.Generator) -> dict[str, float]:
    """Shares of y in which categories differ at 5 %; codes (prompts,)."""
    cells, inside = _cells(y, random)
    each = np.repeat(codes, y[0, 0].size)
    return {
        "cells_anova": _rejected(_cells_p(cells.reshape(len(y), -1), inside, each)),
        "experiments_anova": _rejected(closed.groups(y.reshape(len(y), -1), each).p),
        "kruskal": _rejected(_kruskal(closed.prompt_means(y), codes)),
    }


def mode(y: Array, random: np.random.Generator) -> dict[str, float]:
    """Shares of y in which modes differ at 5 %."""
    cells, inside = _cells(y, random)
    each = np.tile(np.arange(y.shape[-1]), y[0, ..., 0].size)
    return {
        "cells_t": _rejected(_cells_p(cells.reshape(len(y), -1), inside, each)),
        "experiments_unpaired_t": _rejected(closed.groups(y.reshape(len(y), -1), each).p),
    }


def equivalence(y: Array, bound: float) -> dict[str, float]:
    """Shares of y, modes apart by 0 in truth, called equivalent: at the bound and without any difference.

    Every seed of a prompt counts as an observation of its own.
    """
    apart = (y[..., 1] - y[..., 0]).reshape(len(y), -1)
    return {
        "tost_of_seeds_at_the_bound": _rejected(closed.tost(apart + bound, bound).p),
        "tost_of_seeds_at_no_difference": _rejected(closed.tost(apart, bound).p),
    }


def outliers(x: Array) -> dict[str, Flags]:
    """(studies, prompts) which prompts each rule of thumb calls odd."""
    middle = np.median(x, axis=1, keepdims=True)
    mad = np.median(np.abs(x - middle), axis=1, keepdims=True) / stats.norm.ppf(0.75)
    low, high = np.quantile(x, [0.25, 0.75], axis=1, keepdims=True)
    reach = 1.5 * (high - low)
    z = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
    return {
        "mad_rule": np.abs(x - middle) > np.sqrt(stats.chi2.ppf(0.975, 1)) * mad,
        "boxplot": (x < low - reach) | (x > high + reach),
        "beyond_two_sd": np.abs(z) > 2,
    }


def mixed_model(rows: pd.DataFrame, mean: float) -> dict[str, bool]:
    """Whether statsmodels' MixedLM, (1|prompt) and Wald z, holds the mean and finds what is not there.

    rows: prompt, category, mode, y. Empty if the fit breaks down.
    """
    design = np.column_stack([np.ones(len(rows)), _sums(rows["category"]), _sums(rows["mode"])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every second fit, the right ones too
        try:
            made = MixedLM(rows["y"].to_numpy(), design, rows["prompt"].to_numpy()).fit()
        except np.linalg.LinAlgError:
            return {}
        estimate, covariance = np.asarray(made.fe_params), np.asarray(made.cov_params())[:6, :6]
    se = np.sqrt(np.diag(covariance))
    of_category = estimate[1:5] @ np.linalg.solve(covariance[1:5, 1:5], estimate[1:5])
    return {
        "coverage": bool(abs(estimate[0] - mean) <= Z * se[0]),
        "category": bool(stats.chi2.sf(of_category, 4) < 0.05),
        "mode": bool(abs(estimate[5]) > Z * se[5]),
    }


def _sums(labels: "pd.Series[Any]") -> Array:
    """(rows, levels - 1) sum-to-zero coding, so that the intercept is the mean of equally weighted levels."""
    codes, names = pd.factorize(labels)
    own = np.eye(len(names))[codes]
    return np.asarray(own[:, :-1] - own[:, -1:])


def _held(low: Array, high: Array, mean: float) -> float:
    return float(np.mean((low <= mean) & (mean <= high)))


def _rejected(p: Array) -> float:
    return float(np.mean(p < 0.05))


def _cells(y: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Means (as y) of the cells of experiments, and (studies,) the sum of squares within experiments.

    Exactly as if every cell had been drawn, but 672 times faster. Copies have the same cells.
    """
    noise = CELL_SD / np.sqrt(CELLS) * random.standard_normal(y.shape)
    noise = np.where(y == y[:, :, :1], noise[:, :, :1], noise)
    noise = np.where(y == y[..., :1], noise[..., :1], noise)
    inside = CELL_SD**2 * random.chisquare(y[0].size * (CELLS - 1), len(y))
    return y + noise, inside


def _of_cells(y: Array, random: np.random.Generator) -> tuple[Array, Array]:
    cells, inside = _cells(y, random)
    means, n = cells.reshape(len(y), -1), y[0].size * CELLS
    square = (CELLS * means.var(axis=1) * y[0].size + inside) / (n - 1)
    reach = Z * np.sqrt(square / n)
    return means.mean(axis=1) - reach, means.mean(axis=1) + reach


def _cells_p(means: Array, inside: Array, codes: Codes) -> Array:
    """(studies,) p of an analysis of variance over all cells; of two groups it is the t-test."""
    made = closed.groups(means, codes)
    df = len(codes) * CELLS - len(made.sizes)
    rest = (CELLS * made.sd**2 * made.den_df + inside) / df
    return np.asarray(stats.f.sf(CELLS * made.f * made.sd**2 / rest, made.num_df, df))


def _of_one_prompt(y: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """The earlier analysis: the steps of a single experiment, 1.96 of their population SD over sqrt(4)."""
    steps = y[:, 0, 0, 0, None] + STEP_SD * random.standard_normal((len(y), STEPS))
    reach = 1.96 * steps.std(axis=1) / np.sqrt(STEPS)
    return steps.mean(axis=1) - reach, steps.mean(axis=1) + reach


def _bootstrap(x: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Percentiles of means of resampled prompts; the same draws serve all studies."""
    n = x.shape[1]
    weights = random.multinomial(n, np.full(n, 1 / n), size=DRAWS).T / n
    ends = [
        np.quantile(x[start : start + AT_ONCE] @ weights, [0.025, 0.975], axis=1)
        for start in range(0, len(x), AT_ONCE)
    ]
    low, high = np.concatenate(ends, axis=1)
    return low, high


def _kruskal(x: Array, codes: Codes) -> Array:
    """(studies,) p of the Kruskal-Wallis test of prompt means by its usual chi-square."""
    n, sizes = x.shape[1], np.bincount(codes)
    ranks = stats.rankdata(x, axis=1)
    sums = np.stack([ranks[:, codes == code].sum(axis=1) for code in range(len(sizes))], axis=1)
    h = 12 / (n * (n + 1)) * np.sum(sums**2 / sizes, axis=1) - 3 * (n + 1)
    return np.asarray(stats.chi2.sf(h, len(sizes) - 1))
