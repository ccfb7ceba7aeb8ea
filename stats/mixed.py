"""Linear mixed models by REML, with Kenward-Roger degrees of freedom.

>>> made = fit(frame, "y ~ category + mode", random=["1|prompt", "1|prompt:seed", "1|prompt:mode"])
>>> made.fixed, made.anova, made.components, made.pairs("category")
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..errors import BadInput
from .emmeans import Adjust, grid, means, pairs
from .kenward import Inference, f_test, inference, t_tests
from .mixed_input import basis, power_of_two, readable, refuse_confounded, refuse_copies
from .reml import LARGEST, Optimum, Problem, kernels, maximise, triangle
from .terms import INTERCEPT, Coding, Fixed, Random, fixed, random_terms, response_and_terms

__all__ = ["Fit", "fit"]

Array = npt.NDArray[np.floating[Any]]

SINGULAR = 1e-4  # lme4's tolerance


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted model. Frames have one row a term:

    fixed: term, estimate, se (Kenward-Roger), df (Kenward-Roger), t, p, ci_low, ci_high, satterthwaite_df
    anova: term, F, num_df, den_df, p; type III, Kenward-Roger; NaN where the groups are too few for an F
    satterthwaite, satterthwaite_anova: the same by Satterthwaite and by Fai & Cornelius

    components are variances: prompt, prompt:mode, Subject|Days, Residual, and the covariance
    Subject|Intercept,Days. singular: a variance (or a direction of a covariance) is 0 by lme4's rule.
    """

    formula: str
    fixed: pd.DataFrame
    anova: pd.DataFrame
    satterthwaite: pd.DataFrame
    satterthwaite_anova: pd.DataFrame
    components: dict[str, float]
    criterion: float
    singular: bool
    converged: bool
    n: int
    groups: dict[str, int]
    _inference: Inference = field(repr=False)
    _design: Fixed = field(repr=False)
    _to_basis: Array = field(repr=False)

    @property
    def loglik(self) -> float:
        """The restricted log-likelihood: -criterion / 2."""
        return -self.criterion / 2

    def emmeans(self, term: str) -> pd.DataFrame:
        """Marginal means of a term (1: overall), categories weighed equally, covariates at their mean."""
        cells, rows = grid(self._design, term)
        return means(cells, rows @ self._to_basis, self._inference)

    def pairs(self, term: str, adjust: Adjust = "tukey") -> pd.DataFrame:
        """Differences of a term's marginal means; adjusted by tukey, bonferroni, holm or none."""
        cells, rows = grid(self._design, term)
        return pairs(cells, rows @ self._to_basis, self._inference, adjust)


def fit(
    frame: pd.DataFrame,
    formula: str,
    random: Sequence[str],
    *,
    coding: Coding = "sum",
    dropna: bool = False,
) -> Fit:
    """The REML fit of a linear mixed model with lme4's random terms; for frames of up to about 1,000 rows.

    coding is that of categories in `fixed`: sum (Intercept = mean of equally weighted categories) or
    treatment (R's default, against the first level). Levels are in order of appearance, or in the
    Categorical's own order.
    """
    if coding not in get_args(Coding):
        raise BadInput(f"coding={coding!r}: choose sum or treatment")
    response, terms = response_and_terms(formula)
    effects = random_terms(random)
    used = readable(frame, response, terms, effects, dropna)
    design, shown = fixed(terms, used, "sum"), fixed(terms, used, coding)
    q = basis(design, used)
    grouping = {name for term in effects for name in term.group}
    refuse_copies(used, response, sorted(grouping | set(design.levels)))
    setup = _setup(used, response, q, effects)
    best = maximise(setup.problem)
    if np.abs(best.theta).max() >= 0.99 * LARGEST:
        raise BadInput(
            f"the model leaves no residual in {response!r}: collapse rows that are copies or leave a term out"
        )
    text = " + ".join([formula.strip(), *(f"({term.text})" for term in effects)])
    return _result(text, setup, best, design, shown)


@dataclass(frozen=True, slots=True)
class _Setup:
    """The problem in units in which all is near 1.

    The response is scale * (q @ fitted + problem.y); g is units (r,) times the ratio that is told.
    """

    problem: Problem
    fitted: Array
    scale: float
    units: Array
    keys: tuple[str, ...]
    groups: dict[str, int]


def _result(text: str, setup: _Setup, best: Optimum, design: Fixed, shown: Fixed) -> Fit:
    """All that is told of a fit."""
    q = setup.problem.q
    found = inference(setup.problem, best, setup.fitted, setup.scale)
    to_basis, to_shown = np.linalg.inv(q.T @ design.x), np.linalg.inv(q.T @ shown.x)
    return Fit(
        formula=text,
        fixed=_coefficients(found, shown.names, to_shown, kenward=True),
        anova=_anova(found, design, to_basis, kenward=True),
        satterthwaite=_coefficients(found, shown.names, to_shown, kenward=False),
        satterthwaite_anova=_anova(found, design, to_basis, kenward=False),
        components=_components(setup, best),
        criterion=_criterion(setup, best, q.T @ shown.x),
        singular=_singular(setup, best),
        converged=best.converged,
        n=len(q),
        groups=setup.groups,
        _inference=found,
        _design=design,
        _to_basis=to_basis,
    )


def _setup(frame: pd.DataFrame, response: str, q: Array, effects: Sequence[Random]) -> _Setup:
    """What is to be estimated, with variances that cannot be told apart refused."""
    y = np.asarray(frame[response], dtype=np.float64)
    unit = power_of_two(y)
    y = y / unit
    fitted = q.T @ y
    y = y - q @ fitted
    spread = float(np.sqrt(y @ y / (len(y) - q.shape[1])))
    blocks, units, keys, groups = [], [], [], {}
    for term in effects:
        values, levels = term.values(frame), term.levels(frame)
        size = np.sqrt(np.mean(values**2, axis=0))
        blocks.append(kernels(levels, values / np.where(size > 0, size, 1.0)))
        for row, col in triangle(len(size)):
            units.append(size[row] * size[col])
            keys.append(term.component(term.effects[col], term.effects[row]))
        groups[term.label] = int(levels.max()) + 1
    every = np.concatenate(blocks)
    refuse_confounded(q, every, keys)
    problem = Problem(y / spread, q, every, tuple(len(term.effects) for term in effects))
    return _Setup(problem, fitted / spread, unit * spread, np.array(units), tuple(keys), groups)


def _components(setup: _Setup, best: Optimum) -> dict[str, float]:
    """Variances and covariances in the response's units, the residual last."""
    n, p = setup.problem.q.shape
    residual = best.state.rss / (n - p) * setup.scale**2
    made = residual * best.g / setup.units
    return {**dict(zip(setup.keys, map(float, made), strict=True)), "Residual": float(residual)}


def _criterion(setup: _Setup, best: Optimum, change: Array) -> float:
    """-2 log of the restricted likelihood as lme4 counts it: it depends on the fixed effects' coding."""
    n, p = setup.problem.q.shape
    constant = (n - p) * (1 + np.log(2 * np.pi / (n - p)) + 2 * np.log(setup.scale))
    return float(best.state.value + constant + 2 * np.linalg.slogdet(change)[1])


def _singular(setup: _Setup, best: Optimum) -> bool:
    """lme4's rule: a diagonal of theta, the relative SD, is below 1e-4."""
    return bool(np.any(best.theta[best.bounded] < SINGULAR * np.sqrt(setup.units[best.bounded])))


def _coefficients(found: Inference, names: Sequence[str], rows: Array, kenward: bool) -> pd.DataFrame:
    """One row a coefficient."""
    made = {"term": list(names), **t_tests(found, rows, kenward).columns()}
    if kenward:
        made["satterthwaite_df"] = t_tests(found, rows, kenward=False).df
    return pd.DataFrame(made)


def _anova(found: Inference, design: Fixed, rows: Array, kenward: bool) -> pd.DataFrame:
    """One row a term: all its sum-coded coefficients at once, which makes it type III."""
    names = [name for name in design.terms if name != INTERCEPT]
    tests = [f_test(found, rows[design.terms[name]], kenward) for name in names]
    values = [(test.f, test.num_df, test.den_df, test.p) for test in tests]
    table = pd.DataFrame(values, columns=["F", "num_df", "den_df", "p"])
    table.insert(0, "term", pd.Series(names, dtype=object))
    return table
