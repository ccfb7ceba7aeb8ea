"""How often the closed forms are right: over thousands of simulated studies at once.

>>> y = simulated.values(Design(), Effects(), n=20_000, seed=1)
>>> closed_form(y, Design().category_of)["mean_t"]            # 0.95 or so of intervals cover the truth
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from . import closed, resampling
from .effects import ALPHA

__all__ = ["closed_form", "permuted_p", "sign_flip_p"]

Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]

AT_ONCE = 1_000  # studies: what bounds the memory


def closed_form(
    y: Array, codes: Codes, *, mean: float = 0.0, spread: float | None = None, bound: float = 0.1
) -> dict[str, float]:
    """Shares of y (studies, prompts, seeds, modes) in which intervals cover and tests reject.

    mean is the true mean, spread the true SD of prompt means. Modes are the last axis' first two; their
    true difference must be 0, and is planted to be the bound for equivalence's size.
    """
    x = closed.prompt_means(y)
    difference = (y[..., 1] - y[..., 0]).mean(axis=-1)
    low, high, _ = closed.prediction(x)
    new = np.roll(x[:, 0], 1)  # a prompt of another study is a new one
    found = {
        "mean_t": _covers(closed.mean(x), mean),
        "mean_these_categories": _covers(closed.category_mean(x, codes), mean),
        "mean_new_categories": _covers(closed.new_category_mean(x, codes), mean),
        "prediction": float(np.mean((low <= new) & (new <= high))),
        "category_f": _rejects(closed.groups(x, codes).p),
        "category_permutation": _rejects(permuted_p(x, codes)),
        "mode_t": _rejects(closed.mean(difference).p),
        "mode_sign_flip": _rejects(sign_flip_p(difference)),
        "tost_at_the_bound": _rejects(closed.tost(difference + bound, bound).p),
        "tost_at_no_difference": _rejects(closed.tost(difference, bound).p),
        "any_outlier": _rejects(closed.studentised(x)[1].min(axis=-1)),
        "one_sided_at_its_bound": _rejects(closed.mean(x, null=mean).greater),
    }
    if spread is not None:
        _, lowest, highest = closed.spread(x)
        found["spread"] = float(np.mean((lowest <= spread) & (spread <= highest)))
        found["d"] = _d_covers(x, mean / spread)
    return found


def _covers(found: closed.Mean, truth: float) -> float:
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


def _rejects(p: Array) -> float:
    return float(np.mean(p < ALPHA))


def _d_covers(x: Array, d: float) -> float:
    """Whether the true d lies in its interval, told from where the seen t lies under that d."""
    n = x.shape[-1]
    t = x.mean(axis=-1) / x.std(axis=-1, ddof=1) * np.sqrt(n)
    place = stats.nct.cdf(t, n - 1, d * np.sqrt(n))
    return float(np.mean((place >= ALPHA / 2) & (place <= 1 - ALPHA / 2)))


def permuted_p(x: Array, codes: Codes) -> Array:
    """(studies,) exact permutation p of categories for x (studies, prompts)."""
    labels, sizes = resampling.labelings(codes), np.bincount(codes)
    groups = [(labels == code).T / np.sqrt(size) for code, size in enumerate(sizes.tolist())]
    found = np.empty(len(x))
    for start in range(0, len(x), AT_ONCE):
        rest = x[start : start + AT_ONCE]
        rest = rest - rest.mean(axis=1, keepdims=True)
        between = np.sum([(rest @ group) ** 2 for group in groups], axis=0)
        own = np.sum([(rest @ (codes == code)) ** 2 / size for code, size in enumerate(sizes)], axis=0)
        found[start : start + AT_ONCE] = np.mean(between >= own[:, None] * (1 - resampling.TIE), axis=1)
    return found


def sign_flip_p(x: Array) -> Array:
    """(studies,) exact sign-flip p of the mean of x (studies, prompts)."""
    flips, _ = resampling.signs(x.shape[-1])
    sums = np.abs(x @ flips.T)
    return np.asarray(np.mean(sums >= np.abs(x.sum(axis=1))[:, None] * (1 - resampling.TIE), axis=1))
