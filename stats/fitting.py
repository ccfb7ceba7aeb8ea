"""What the mixed model says of itself, where one is needed: singular or not, an optimum or not."""

from dataclasses import replace

import numpy as np

from . import mixed
from .gate import Check
from .routes import Route, model, second_opinion
from .study import Study

__all__ = ["judge_fit"]

ZERO = 1e-8  # of all variance
INSTEAD = "prompt means of what is there are used instead"


def judge_fit(study: Study, way: Route) -> tuple[Route, list[Check]]:
    """The route with its doubts, and the checks of singularity and, where a model is fitted, of its fit."""
    if not way.reml or len(study.prompts) < 2 or np.isnan(study.y).all():
        exact = "no variance had to be estimated: prompt means need no model"
        return way, [Check("singularity", "pass", exact)]
    made = model(study, way.crossed)
    if isinstance(made, str):
        return way, [
            Check("singularity", "suspect", "unknown: there is no fit"),
            Check("mixed model", "suspect", f"{made}: {INSTEAD}"),
        ]
    optimum = second_opinion(study, made, way.crossed)
    told = "gradient 0, Hessian positive definite; "
    if isinstance(optimum, str):
        return way, [_singular(made), Check("mixed model", "pass", told + optimum)]
    if optimum.ours_is_short:
        doubted = replace(way, doubt=optimum.sentence)
        return doubted, [_singular(made), Check("mixed model", "suspect", f"{optimum.sentence}; {INSTEAD}")]
    return way, [_singular(made), Check("mixed model", "pass", told + optimum.sentence)]


def _singular(made: mixed.Fit) -> Check:
    if not made.singular:
        return Check("singularity", "pass", "no variance is at 0")
    total = sum(made.components.values())
    zero = [name for name, value in made.components.items() if value < ZERO * total]
    told = f"singular: {', '.join(zero) or 'a variance'} is 0; kept in the model, Kenward-Roger df"
    return Check("singularity", "suspect", told)
