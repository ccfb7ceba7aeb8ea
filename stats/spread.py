"""How much a value varies between prompts and seeds, and so with any number of seeds; and in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from . import closed
from .questions import between, number
from .routes import variances
from .study import PAIR, Study

__all__ = [
    *("Spread", "components", "of_categories", "of_difference", "of_mean"),
    *("prompts_told", "seeds_told"),
]

LUCKY = 1.02  # times this study's own SD, from which the one that is planned with is told to be another
LACK_OF_SEEDS = "There is one seed, so what more of them would add is not known; two would tell."


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of a prompt's value: `between` prompts, and `within` them for one seed (None: not known)."""

    between: float
    within: float | None
    seeds: int
    df: int

    def sd(self, seeds: int | None = None) -> float:
        """The SD between prompts whose value is the mean of so many seeds, of those there are by default."""
        return math.sqrt(self.between + (self.within or 0.0) / (seeds or self.seeds))

    @property
    def ends(self) -> tuple[float, float]:
        """The 95 % interval of the SD: by chi-square, so it takes normal prompts for granted."""
        low, high = stats.chi2.ppf([0.975, 0.025], self.df)
        return self.sd() * math.sqrt(self.df / low), self.sd() * math.sqrt(self.df / high)


def components(study: Study) -> tuple[str, dict[str, float], int] | str:
    """The route, the variances as the design tells them apart, the df of prompts; or why there are none."""
    if not study.complete:
        fitted = variances(study, crossed=False)
        if not isinstance(fitted, str):
            return "REML", fitted, len(study.prompts) - 1
    whole = study.y[~np.isnan(study.y).any(axis=(1, 2))]
    if len(whole) < 2:
        return "fewer than two prompts have all their experiments: finish the grid first"
    left = "" if study.complete else f" of the {len(whole)} prompts without gaps"
    found = closed.components(whole).variances
    return f"mean squares{left}", {name: float(value) for name, value in found.items()}, len(whole) - 1


def of_mean(study: Study, found: Mapping[str, float], df: int) -> Spread:
    """Of a prompt's mean over seeds and modes."""
    _, seeds, modes = study.y.shape
    noise, own, other = (found.get(name, 0.0) for name in ("Residual", "prompt:seed", "prompt:mode"))
    if seeds > 1:
        return _spread(found["prompt"] + other / modes, own + noise / modes, seeds, df)
    return _spread(found["prompt"] + noise / modes, 0.0 if study.copies else None, seeds, df)


def of_difference(study: Study, found: Mapping[str, float], df: int) -> Spread | None:
    """Of a prompt's difference between the two modes; None where there are not both."""
    if study.modes != PAIR:
        return None
    seeds = study.y.shape[1]
    noise, other = (2 * found.get(name, 0.0) for name in ("Residual", "prompt:mode"))
    if seeds > 1:
        made = _spread(other, noise, seeds, df)
    else:
        made = _spread(noise, 0.0 if study.copies else None, seeds, df)
    return made if made.sd() > 0 else None


def of_categories(study: Study, planned: Spread) -> Spread:
    """Of a category's mean, at least what prompts that differ as planned make of it by themselves."""
    found = closed.groups(study.means, study.codes)
    least = planned.sd() ** 2 * float(np.mean(1 / found.sizes))
    seen = float(found.means.var(ddof=1))
    return Spread(max(seen, least), None, study.y.shape[1], len(found.sizes) - 1)


def prompts_told(study: Study, mean: Spread) -> str:
    """What is planned with, which may be more than this study's own means show."""
    within = f"; a seed within a prompt adds one of {number(math.sqrt(mean.within))}" if mean.within else ""
    span = f"95 % CI {between(*mean.ends)}, assumes normal prompts"
    tail = "The range is what the ends of that interval would need."
    seen = float(study.means.std(ddof=1))
    if study.complete and mean.sd() > LUCKY * seen:
        return (
            f"Prompt means came out with an SD of {number(seen)}, closer together than the spread of their "
            f"seeds alone makes likely: {number(mean.sd())} ({span}{within}), which is planned with, since "
            f"the next study will not be as lucky. {tail}"
        )
    return f"Prompt means differ with an SD of {number(mean.sd())} ({span}){within}. {tail}"


def seeds_told(study: Study, mean: Spread) -> str:
    """Where the next experiment is better spent."""
    if study.copies:
        return (
            "Seeds are copies and buy nothing: one is enough. For seeds that act set temperature above 0, "
            "in a cube of its own, since a cube keeps its temperature."
        )
    if mean.within is None:
        return LACK_OF_SEEDS
    n, seeds = len(study.prompts), mean.seeds
    if not mean.between:
        return "Prompts differ by no more than their seeds explain: one more of either buys the same."
    now, more = mean.sd() / math.sqrt(n), mean.sd() / math.sqrt(2 * n)
    return (
        f"Prompts are the better spend: twice the prompts take the standard error of the mean from "
        f"{number(now)} to {number(more)}, twice the seeds to {number(mean.sd(2 * seeds) / math.sqrt(n))}."
    )


def _spread(between: float, within: float | None, seeds: int, df: int) -> Spread:
    """A variance that came out below 0 is taken for 0."""
    return Spread(max(between, 0.0), None if within is None else max(within, 0.0), seeds, df)
