"""statsmodels' MixedLM on the same models as `mixed`: a second opinion on the optimum, not on p-values.

>>> made = fit(frame, "y ~ category + mode", random=["1|prompt", "1|prompt:seed", "1|prompt:mode"])
>>> made.fixed, made.components, made.tried, made.told
>>> crosscheck(ours, frame, "y ~ category + mode", random).sentence
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..errors import BadInput
from .mixed import Fit as Ours
from .mixed_input import basis, power_of_two, readable, refuse_copies
from .terms import INTERCEPT, Coding, Random, fixed, random_terms, response_and_terms

__all__ = ["ERRORS", "Crosscheck", "Fit", "crosscheck", "fit"]

Array = npt.NDArray[np.floating[Any]]

ERRORS = "Wald z: too narrow with few prompts"
OPTIMISERS = ("default", "nm", "powell")  # alone, each of them stops short now and then
CLOSE = 1e-4  # log-likelihoods this close are the same optimum


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What MixedLM finds. fixed: term, estimate, se, z, ci_low, ci_high; `errors` says what se is worth.

    components are variances named as `mixed` names them; tried is the restricted log-likelihood that each
    optimiser reached, loglik the best; told is what statsmodels warned of on the way to that one.
    """

    formula: str
    fixed: pd.DataFrame
    errors: str
    components: dict[str, float]
    loglik: float
    optimiser: str
    converged: bool
    tried: dict[str, float]
    told: tuple[str, ...]
    n: int


@dataclass(frozen=True, slots=True)
class Crosscheck:
    """MixedLM held against `mixed`, theirs - ours; component is the largest difference, of all variance."""

    loglik: float
    component: float
    estimate: float
    same: bool
    ours_is_short: bool
    sentence: str


def fit(
    frame: pd.DataFrame,
    formula: str,
    random: Sequence[str],
    *,
    coding: Coding = "sum",
    dropna: bool = False,
    enough: float | None = None,
) -> Fit:
    """The REML fit by MixedLM, the best of its optimisers; random intercepts only, nested or crossed.

    With `enough`, the first optimiser that reaches this log-likelihood is the last that is asked.
    """
    if coding not in get_args(Coding):
        raise BadInput(f"coding={coding!r}: choose sum or treatment")
    response, terms = response_and_terms(formula)
    effects = random_terms(random)
    _must_be_intercepts(effects)
    used = readable(frame, response, terms, effects, dropna)
    design = fixed(terms, used, coding)
    basis(design, used)
    grouping = {name for term in effects for name in term.group}
    refuse_copies(used, response, sorted(grouping | set(design.levels)))
    text = " + ".join([formula.strip(), *(f"({term.text})" for term in effects)])
    found = _best(np.asarray(used[response], dtype=np.float64), design.x, effects, used, enough)
    return _result(text, design.names, [term.label for term in effects], found)


def crosscheck(
    ours: Ours, frame: pd.DataFrame, formula: str, random: Sequence[str], *, coding: Coding = "sum"
) -> Crosscheck:
    """Whether MixedLM, given the model that `ours` is a fit of, finds a better optimum, the same or none."""
    theirs = fit(frame, formula, random, coding=coding, enough=ours.loglik - CLOSE)
    gap = theirs.loglik - ours.loglik
    total = sum(abs(value) for value in ours.components.values())
    component = max(abs(theirs.components[name] - value) for name, value in ours.components.items()) / total
    estimate = float(np.max(np.abs(theirs.fixed["estimate"] - ours.fixed["estimate"])))
    same, short = abs(gap) <= CLOSE, gap > CLOSE
    return Crosscheck(gap, component, estimate, same, short, _said(gap, component))


def _said(gap: float, component: float) -> str:
    if abs(gap) <= CLOSE:
        return f"statsmodels MixedLM finds the same optimum (variances within {component:.1g} of their sum)"
    if gap > 0:
        return f"statsmodels MixedLM finds a log-likelihood {gap:.2g} higher: this is not the optimum"
    return f"statsmodels MixedLM stops at a log-likelihood {-gap:.2g} lower: it falls short of this optimum"


def _must_be_intercepts(effects: Sequence[Random]) -> None:
    for term in effects:
        if term.effects != (INTERCEPT,):
            raise BadInput(
                f"random term {term.text!r}: MixedLM is given intercepts only, such as 1|{term.label}; "
                "mixed.fit takes slopes"
            )


@dataclass(frozen=True, slots=True)
class _Found:
    """The best result of MixedLM in units of the response's SD, and what the others came to."""

    made: Any
    scale: float
    optimiser: str
    tried: dict[str, float]
    told: tuple[str, ...]


def _best(y: Array, x: Array, effects: Sequence[Random], frame: pd.DataFrame, enough: float | None) -> _Found:
    """All optimisers in turn. One dummy group holds every row, since crossed effects share no groups."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    # Boundaries are told in absolute terms, so that the response's unit would decide what is one.
    unit = power_of_two(y)
    scale = unit * float((y / unit).std(ddof=1))
    marks = [np.eye(int(levels.max()) + 1)[levels] for levels in (term.levels(frame) for term in effects)]
    names = [[[f"{i}" for i in range(mark.shape[1])]] for mark in marks]
    spec = VCSpec([term.label for term in effects], names, [[mark] for mark in marks])
    (n, p), tried = x.shape, {}
    best: _Found | None = None
    for optimiser in OPTIMISERS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = MixedLM(y / scale, x, np.zeros(n), exog_vc=spec)
            made = model.fit(reml=True, method=None if optimiser == "default" else optimiser)
        tried[optimiser] = float(made.llf) - (n - p) * float(np.log(scale))
        if best is None or tried[optimiser] > tried[best.optimiser]:
            told = tuple(dict.fromkeys(str(warning.message) for warning in caught))
            best = _Found(made, scale, optimiser, tried, told)
        if enough is not None and tried[optimiser] >= enough:
            break
    if best is None or not np.isfinite(tried[best.optimiser]):
        raise BadInput("MixedLM reached no finite log-likelihood: collapse rows that are copies first")
    return best


def _result(text: str, names: Sequence[str], labels: Sequence[str], found: _Found) -> Fit:
    """All that is told of a fit, in the response's units."""
    made, scale = found.made, found.scale
    with np.errstate(divide="ignore", invalid="ignore"):  # where its Hessian is not positive it has no errors
        estimate, se = (np.asarray(each, dtype=np.float64) * scale for each in (made.fe_params, made.bse_fe))
        z = estimate / se
    rows = {"term": list(names), "estimate": estimate, "se": se, "z": z}
    table = pd.DataFrame(rows | {"ci_low": estimate - 1.96 * se, "ci_high": estimate + 1.96 * se})
    variances = [float(value) * scale**2 for value in (*made.vcomp, made.scale)]
    return Fit(
        formula=text,
        fixed=table,
        errors=ERRORS,
        components=dict(zip([*labels, "Residual"], variances, strict=True)),
        loglik=found.tried[found.optimiser],
        optimiser=found.optimiser,
        converged=bool(made.converged),
        tried=found.tried,
        told=found.told,
        n=len(made.model.endog),
    )
