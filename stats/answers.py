"""From a tidy frame to answers: the gate first, then Q1 to Q12, Holm over the confirmatory four, a verdict.

>>> found = answer(frame, response="downweighting")
>>> found.answers["downweighting"].sentence
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from statsmodels.stats.multitest import multipletests

from ..errors import BadInput
from . import questions_design as design
from . import questions_maps as mapped
from . import questions_modes as contrasts
from . import questions_prompts as prompts
from .gate import ANSWERS, Check, Gate, captures, judge
from .questions import Answer, plain, untested
from .routes import model, route
from .scenario import Scenario, verdict
from .study import Study, read

__all__ = ["Answers", "answer"]

SESOI = math.log(1.1)
CONFIRMATORY = ("downweighting", "category", "modes", "cross_parallel")
PACKAGES = ("numpy", "scipy", "pandas", "statsmodels", "pingouin", "xarray")
PERFECT_P, PERFECT_D, PERFECT_F, PERFECT_ICC = 1e-30, 10.0, 1e8, 1 - 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """All that is said of a frame; passed: no check of the gate failed."""

    design: Mapping[str, Any]
    gate: tuple[Check, ...]
    answers: Mapping[str, Answer]
    scenario: Scenario
    warnings: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether no check of the gate failed."""
        return all(check.status != "fail" for check in self.gate)

    def to_dict(self) -> dict[str, Any]:
        """The shape of report.json, plain values only."""
        told: dict[str, Any] = plain(
            {
                "schema": 1,
                "design": self.design,
                "gate": [asdict(check) for check in self.gate],
                "answers": {key: found.to_dict() for key, found in self.answers.items()},
                "scenario": self.scenario.to_dict(),
                "warnings": self.warnings,
                "versions": self.versions,
            }
        )
        return told

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def answer(
    frame: pd.DataFrame,
    response: str = "downweighting",
    *,
    between: pd.DataFrame | None = None,
    maps: xr.DataArray | None = None,
    sesoi: float = SESOI,
    seed: int = 0,
) -> Answers:
    """Answers to Q1-Q12 from one row per experiment; what the frame lacks is not tested, with the reason.

    sesoi, the smallest difference of interest, is on the response's scale and chosen before the data.
    """
    if not (math.isfinite(sesoi) and sesoi > 0):
        raise BadInput(f"sesoi={sesoi}: the smallest difference of interest is a number above 0")
    raw = read(frame, response)
    gate = judge(raw, between)
    study = gate.study
    found = _all(gate, between, maps, sesoi, seed)
    found, perfect = _perfect(found, gate)
    found = _holm(found)
    checks = (*gate.checks, *_fit(study), *perfect)
    return Answers(
        _design(raw, frame),
        checks,
        found,
        verdict(study, found, between),
        tuple(check.detail for check in checks if check.status == "suspect"),
        {name: version(name) for name in PACKAGES},
    )


def _all(
    gate: Gate, between: pd.DataFrame | None, maps: xr.DataArray | None, sesoi: float, seed: int
) -> dict[str, Answer]:
    """Every answer, or why it is withheld; seeds first, since they decide the route of the others."""
    study = gate.study
    asked: dict[str, Callable[[], Answer]] = {"seeds": lambda: design.seeds(study, seed)}
    first = _unless_withheld(gate, "seeds", asked["seeds"])
    way = route(study, seeds_act=first.p is not None and first.p < 0.05)
    asked |= {
        "seeds": lambda: first,
        "downweighting": lambda: prompts.downweighting(study, way, seed),
        "prompt_variance": lambda: design.prompt_variance(study, way),
        "outliers": lambda: prompts.outliers(study),
        "effect_size": lambda: prompts.effect_size(study),
        "category": lambda: design.category(study, way, seed),
        "generalisation": lambda: prompts.generalisation(study),
        "modes": lambda: contrasts.modes(study, way, sesoi, between, seed),
        "cross_parallel": lambda: contrasts.cross_parallel(study, sesoi),
        "logits": lambda: contrasts.logits(study, between),
        "maps": lambda: mapped.maps(study, maps, seed),
        "over_steps": lambda: prompts.over_steps(study),
    }
    return {key: _unless_withheld(gate, key, asked[key]) for key in ANSWERS}


def _unless_withheld(gate: Gate, key: str, ask: Callable[[], Answer]) -> Answer:
    if key not in gate.withheld:
        return ask()
    study = gate.study
    # Categories without a test still have means and, where prompts repeat in some, intervals.
    means = key == "category" and not np.isnan(study.means).any() and len(study.prompts) > 1
    told = {"means": design.category_means(study)} if means else {}
    return untested(gate.withheld[key], len(study.prompts), **told)


def _perfect(found: dict[str, Answer], gate: Gate) -> tuple[dict[str, Answer], list[Check]]:
    """Numbers too good to be true are told as such, and withheld unless the treatment was verified."""
    verified = any(check.check == "treatment" and check.status == "pass" for check in gate.checks)
    kept, checks = dict(found), []
    for key, value in found.items():
        why = _too_perfect(value)
        if why is None:
            continue
        checks.append(Check("too perfect", "suspect", f"{key}: {why}; check your pipeline"))
        if not verified:
            kept[key] = untested(f"{why}: too perfect, check your pipeline", value.n)
    return kept, checks


def _too_perfect(value: Answer) -> str | None:
    if value.not_tested:
        return None
    if value.p is not None and value.p < PERFECT_P:
        return f"p = {value.p:.0e}"
    details = value.details
    d = details.get("d_z") if "d_z" in details else value.estimate if "hedges_g" in details else None
    if d is not None and abs(d) > PERFECT_D:
        return f"d = {d:.3g}"
    if details.get("F", 0.0) > PERFECT_F:
        return f"F = {details['F']:.3g}"
    icc = details.get("icc")
    return f"ICC = {icc:.6f}" if isinstance(icc, float) and icc > PERFECT_ICC else None


def _holm(found: dict[str, Answer]) -> dict[str, Answer]:
    """p_holm over the confirmatory questions that were tested; the rest is called exploratory."""
    tested = [key for key in CONFIRMATORY if found[key].p is not None]
    adjusted = multipletests([found[key].p for key in tested], method="holm")[1] if tested else []
    holm = dict(zip(tested, map(float, adjusted), strict=True))
    told = {}
    for key, value in found.items():
        status = {"family": "confirmatory" if key in CONFIRMATORY else "exploratory"}
        own = {"p_holm": holm[key], "family_size": len(holm)} if key in holm else {}
        told[key] = replace(value, details={**value.details, **status, **own})
    return told


def _fit(study: Study) -> list[Check]:
    """What the mixed model says of itself, where one is needed."""
    if study.complete or len(study.prompts) < 2 or np.isnan(study.y).all():
        return []
    made = model(study)
    if isinstance(made, str):
        return [Check("mixed model", "suspect", f"{made}: prompt means of what is there are used instead")]
    if made.singular:
        zero = [
            name for name, value in made.components.items() if value < 1e-8 * sum(made.components.values())
        ]
        told = f"singular: {', '.join(zero) or 'a variance'} is 0; kept in the model, Kenward-Roger df"
        return [Check("mixed model", "suspect", told)]
    return [Check("mixed model", "pass", "converged, no variance at 0")]


def _design(study: Study, frame: pd.DataFrame) -> dict[str, Any]:
    """What was run and how much of it is distinct."""
    own = study.frame
    distinct, done = captures(study)
    asked: Mapping[str, int] | None = frame.attrs.get("cells")
    modes = tuple(dict.fromkeys(own["mode"]))
    return {
        "response": study.response,
        "prompts": len(study.prompts),
        "categories": len(study.categories),
        "seeds": len(study.seeds),
        "modes": modes,
        "cells": sum(asked.values()) if asked else len(study.prompts) * len(study.seeds) * len(modes),
        "done": done,
        "distinct_captures": distinct,
    }
