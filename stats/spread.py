"""How much a value varies between prompts and from seed to seed, and so with any number of seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from . import closed
from .routes import variances
from .study import PAIR, Study

__all__ = ["Spread", "components", "of_difference", "of_mean"]


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


def _spread(between: float, within: float | None, seeds: int, df: int) -> Spread:
    """A variance that came out below 0 is taken for 0."""
    return Spread(max(between, 0.0), None if within is None else max(within, 0.0), seeds, df)
