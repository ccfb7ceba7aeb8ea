"""The two routes to a mean, a contrast, a test of categories: prompt means, or REML with Kenward-Roger.

Prompt means are exact where no experiment is missing; the model is for gaps and for seeds that act.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ..errors import BadInput
from . import mixed, mixedlm
from .closed import Mean
from .study import Study

__all__ = ["MOST_ROWS", "Route", "intercept", "model", "route", "second_opinion", "variances"]

MOST_ROWS = 1_000
MOST_COMPARED = 250  # rows: MixedLM takes seconds beyond
KENWARD = "REML with Kenward-Roger df"


@dataclass(frozen=True, slots=True)
class Route:
    """reml: the model is the primary route, because of what; crossed: seeds have effects of their own.

    doubt: why no number is taken from a model after all; prompt means of what is there are used instead.
    """

    reml: bool
    crossed: bool
    why: str
    doubt: str = ""


def route(study: Study, seeds_act: bool) -> Route:
    """Which route is the primary one."""
    crossed = seeds_act and study.y.shape[1] > 1
    if not study.complete:
        return Route(True, crossed, "experiments are missing")
    return Route(crossed, crossed, "seeds act the same in all prompts" if crossed else "nothing is missing")


def _long(study: Study) -> pd.DataFrame:
    """One row an experiment that is there: prompt, category, seed, mode, y."""
    p, s, m = np.nonzero(~np.isnan(study.y))
    return pd.DataFrame(
        {
            "prompt": np.asarray(study.prompts, dtype=object)[p],
            "category": np.asarray(study.category_of, dtype=object)[p],
            "seed": [f"s{i}" for i in s],
            "mode": np.asarray(study.modes, dtype=object)[m],
            "y": study.y[p, s, m],
        }
    )


def _asked(study: Study, crossed: bool, category: bool) -> tuple[str, list[str]] | str:
    """Formula and random terms of the design, with every variance that can be told apart; or why not."""
    _, seeds, modes = study.y.shape
    if (rows := int(np.sum(~np.isnan(study.y)))) > MOST_ROWS:
        return f"{rows} experiments are more than the {MOST_ROWS} that a model is fitted to"
    if seeds == modes == 1:
        return "one experiment a prompt leaves nothing to model"
    fixed = ["category"] * category + ["mode"] * (modes > 1)
    random = ["1|prompt"]
    if seeds > 1 and modes > 1:
        random += ["1|prompt:seed", "1|prompt:mode"]
    if crossed:
        random.append("1|seed")
    return f"y ~ {' + '.join(fixed) or '1'}", random


@lru_cache(maxsize=4)  # several answers rest on one fit of one study
def model(study: Study, crossed: bool = False, category: bool = False) -> mixed.Fit | str:
    """The model of the design, or why there is none."""
    asked = _asked(study, crossed, category)
    if isinstance(asked, str):
        return asked
    try:
        made = mixed.fit(_long(study), *asked)
    except BadInput as refused:
        return str(refused)
    return made if made.converged else "the fit did not converge"


def second_opinion(study: Study, made: mixed.Fit, crossed: bool) -> mixedlm.Crosscheck | str:
    """What MixedLM says of the model without categories that `made` is a fit of, or why it was not asked."""
    asked = _asked(study, crossed, category=False)
    if isinstance(asked, str):
        return asked
    if made.n > MOST_COMPARED:
        return f"statsmodels MixedLM was not asked: {made.n} rows are more than {MOST_COMPARED}"
    try:
        return mixedlm.crosscheck(made, _long(study), *asked)
    except (BadInput, np.linalg.LinAlgError) as refused:
        return f"statsmodels MixedLM gave no fit: {refused}"


def intercept(fit: mixed.Fit) -> Mean:
    """The overall mean with modes (and categories) weighed equally."""
    return _mean(fit.fixed.iloc[0])


def contrast(fit: mixed.Fit, one: str, other: str) -> Mean | None:
    """other - one; None where the model has no two modes."""
    if "mode" not in set(fit.anova["term"]):
        return None
    pairs = fit.pairs("mode", adjust="none")
    for sign, name in ((1.0, f"{other} - {one}"), (-1.0, f"{one} - {other}")):
        found = pairs[pairs["contrast"] == name]
        if len(found):
            return _mean(found.iloc[0], sign)
    return None


def _mean(row: "pd.Series[Any]", sign: float = 1.0) -> Mean:
    ends = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    values = (sign * row["estimate"], row["se"], row["df"], sign * row["t"], row["p"], *ends)
    return Mean(*values)


def variances(study: Study, crossed: bool) -> dict[str, float] | str:
    """Variances of prompt, prompt:seed, prompt:mode and residual by REML, or why there are none."""
    made = model(study, crossed)
    return made if isinstance(made, str) else dict(made.components)
